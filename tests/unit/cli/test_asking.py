from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.decision import Command, Verb
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.step import tick
from anabranch.cli.requests import phase_after, possible_verbs
from anabranch.store.document import parse

Begin = Callable[..., None]
Shell = Any


def answer_requests(shell: Shell) -> None:
    """One tick of a controller."""
    store = shell.store()
    kept = store.experiment("tiny")
    evidence = Evidence(experiment="tiny")
    result = tick(parse(kept.document), kept.state, evidence, store.pending("tiny"), shell.clock.at_s)
    store.save(
        "tiny", expected=kept.state_version, state=result.state, evidence=evidence, decision=result.decision
    )
    store.close()


def test_a_request_is_kept_with_its_actor_and_says_what_happens_next(shell: Shell, live: Begin) -> None:
    live(ticks=3)
    ran = shell("pause", "tiny")
    assert (ran.code, ran.out) == (0, "experiment tiny: pause requested\n")
    assert "go on with `anabranch resume tiny`" in ran.err
    assert "follow it with `anabranch get tiny -w`" in ran.err
    pending = shell.store().pending("tiny")
    assert [(command.verb, command.actor) for command in pending] == [(Verb.PAUSE, "ada")]


def test_what_the_next_tick_would_refuse_is_refused_at_once(shell: Shell, live: Begin) -> None:
    live(ticks=3)
    ran = shell("undo", "tiny")
    assert ran.code == 5
    assert "cannot undo tiny: it is Progressing" in ran.err
    assert "possible now: promote, pause, abort" in ran.err
    assert shell.store().pending("tiny") == ()


def test_earlier_requests_count_before_they_are_answered(shell: Shell, live: Begin) -> None:
    live(ticks=3)
    assert shell("pause", "tiny").code == 0
    ran = shell("pause", "tiny")
    assert ran.code == 5
    assert "it will be Paused after pause" in ran.err
    assert shell("resume", "tiny").code == 0


def test_promoting_checks_the_variant(shell: Shell, live: Begin) -> None:
    live(ticks=1)
    ran = shell("promote", "tiny", "--variant", "int9")
    assert ran.code == 3
    assert "'int9' is no live candidate of tiny; live are: int8, kl, did you mean int8?" in ran.err


def test_a_removed_variant_cannot_be_promoted_and_the_reason_is_repeated(shell: Shell, live: Begin) -> None:
    live()
    ran = shell("promote", "tiny", "--variant", "kl")
    assert ran.code == 5
    assert "cannot promote kl: it was removed (fidelity" in ran.err


def test_a_promotion_names_its_variant(shell: Shell, live: Begin) -> None:
    live()
    assert shell("promote", "tiny", "--variant", "int8").out == "experiment tiny: promote of int8 requested\n"
    assert (
        shell("promote", "tiny", "--variant", "int8", "--full").out
        == "experiment tiny: promote-full of int8 requested\n"
    )
    assert shell.store().pending("tiny")[0].argument == "int8"


def test_a_promotion_of_the_only_live_candidate_names_it_too(shell: Shell, live: Begin) -> None:
    live()
    assert shell("promote", "tiny").out == "experiment tiny: promote of int8 requested\n"
    assert shell.store().pending("tiny")[0].argument == "int8"


def test_with_several_live_candidates_one_must_be_named(shell: Shell, live: Begin) -> None:
    live(ticks=1)
    ran = shell("promote", "tiny")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "error: tiny has 2 live candidates, and none was named:\n"
        "  int8: not proven yet: fidelity, latency\n"
        "  kl: not proven yet: fidelity, latency\n"
        "choose one: `anabranch promote tiny --variant NAME`\n"
    )
    assert shell.store().pending("tiny") == ()
    assert shell("promote", "tiny", "--variant", "kl").out == "experiment tiny: promote of kl requested\n"


def test_waiting_ends_with_the_tick_that_answers(shell: Shell, live: Begin) -> None:
    live()
    shell.clock.on_wait = lambda wait: answer_requests(shell) if wait == 3 else None
    ran = shell("resume", "tiny", "--wait")
    assert ran.code == 0
    assert ran.out.startswith("experiment tiny: resume done, Progressing: resumed by ada")
    assert len(shell.clock.waits) == 3


def test_a_refusal_by_the_tick_is_a_refusal_of_the_command(shell: Shell, live: Begin) -> None:
    live()
    store = shell.store()

    def somebody_is_faster(wait: int) -> None:
        if wait == 1:
            kept = store.experiment("tiny")
            over = replace(kept.state, phase=Phase.ABORTED)
            store.save(
                "tiny",
                expected=kept.state_version,
                state=over,
                evidence=Evidence(experiment="tiny"),
                decision=None,
            )
            answer_requests(shell)

    shell.clock.on_wait = somebody_is_faster
    ran = shell("resume", "tiny", "--wait")
    store.close()
    assert ran.code == 5
    assert "resume by ada refused: cannot resume an experiment that is Aborted" in ran.err


def test_waiting_without_a_controller_ends_in_time_and_keeps_the_request(shell: Shell, live: Begin) -> None:
    live()
    ran = shell("resume", "tiny", "--wait", "--timeout", "2")
    assert ran.code == 1
    assert "no tick answered within 2 s; the request stays" in ran.err
    assert "is the server running? start it with `anabranch serve" in ran.err
    assert len(shell.store().pending("tiny")) == 1
    assert sum(shell.clock.waits) == pytest.approx(2.0)


def test_asking_never_creates_a_database(shell: Shell) -> None:
    assert shell("pause", "tiny").code == 3
    assert not shell.database.exists()


@pytest.mark.parametrize(
    ("phase", "verbs"),
    [
        (Phase.PENDING, ["abort", "approve"]),
        (Phase.PROGRESSING, ["promote", "pause", "abort", "approve"]),
        (Phase.PAUSED, ["promote", "resume", "abort", "approve"]),
        (Phase.INCONCLUSIVE, ["promote", "abort", "retry"]),
        (Phase.PROMOTING, ["abort", "undo", "approve"]),
        (Phase.PROMOTED, ["undo"]),
        (Phase.ROLLED_BACK, ["retry"]),
        (Phase.ABORTED, ["retry"]),
    ],
)
def test_the_verbs_of_each_phase(phase: Phase, verbs: list[str]) -> None:
    assert possible_verbs(phase) == verbs


def test_requests_that_are_not_possible_change_nothing_on_the_way() -> None:
    asked = [Command(id=index, verb=verb, actor="ada") for index, verb in enumerate([Verb.UNDO, Verb.PAUSE])]
    assert phase_after(Phase.PROGRESSING, asked) is Phase.PAUSED
