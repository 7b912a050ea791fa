import json
from collections.abc import Callable
from typing import Any

import pytest

Begin = Callable[..., None]
Shell = Any


def test_history_follows_until_the_experiment_stands_still(shell: Shell, live: Begin) -> None:
    live(ticks=40)
    shell.clock.on_wait = lambda times: shell("abort", "tiny") if times == 1 else end(shell)
    ran = shell("history", "tiny", "--watch")
    assert ran.code == 0
    assert ran.out.splitlines()[0].endswith("#1 Progressing phase: started with 2 candidates against fp32")
    assert "Aborted" in ran.out.splitlines()[-1]


def end(shell: Shell) -> None:
    """What the controller's next tick does."""
    from dataclasses import replace

    from anabranch.bandit.evidence import Evidence
    from anabranch.bandit.step import tick
    from anabranch.store.document import parse

    store = shell.store()
    kept = store.experiment("tiny")
    if not kept.state.phase.is_over:
        done = tick(
            parse(kept.document), kept.state, Evidence(experiment="tiny"), store.pending("tiny"), 9_999.0
        )
        store.save(
            "tiny",
            expected=kept.state_version,
            state=replace(done.state),
            evidence=Evidence(experiment="tiny"),
            decision=done.decision,
        )
    store.close()


def test_json_is_one_line_a_decision(shell: Shell, live: Begin) -> None:
    live()
    shell("abort", "tiny")
    shell.clock.on_wait = lambda _: end(shell)
    lines = shell("history", "tiny", "-w", "-o", "json").out.splitlines()
    numbers = [json.loads(line)["number"] for line in lines]
    assert numbers == list(range(1, len(numbers) + 1))


def test_events_are_followed_until_somebody_interrupts(shell: Shell, live: Begin) -> None:
    live(ticks=3)

    def once(times: int) -> None:
        if times == 1:
            shell("pause", "tiny")
        else:
            raise KeyboardInterrupt

    shell.clock.on_wait = once
    ran = shell("events", "tiny", "--watch")
    assert ran.code == 130
    assert [line.split()[3] for line in ran.out.splitlines()] == ["apply", "pause"]


@pytest.mark.parametrize("verb", ["history", "events"])
def test_following_what_is_not_there_says_so(shell: Shell, live: Begin, verb: str) -> None:
    live(ticks=1)
    assert shell(verb, "tinny", "--watch").code == 3
