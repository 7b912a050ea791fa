from itertools import product
from pathlib import Path

import pytest

from anabranch.bandit.lifecycle import TRANSITIONS, Event, IllegalTransition, Phase, diagram, follow

DOCUMENT = Path(__file__).parents[3] / "docs" / "lifecycle.md"


@pytest.mark.parametrize(("phase", "event"), list(product(Phase, Event)))
def test_every_pair_is_in_the_table_or_raises_with_what_is_possible(phase: Phase, event: Event) -> None:
    if (phase, event) in TRANSITIONS:
        assert follow(phase, event) is TRANSITIONS[phase, event]
        return
    possible = sorted(known for place, known in TRANSITIONS if place is phase)
    with pytest.raises(IllegalTransition) as raised:
        follow(phase, event)
    assert str(raised.value) == (
        f"cannot {event} an experiment that is {phase}: possible is {', '.join(possible)}"
    )


def test_only_a_person_leaves_a_phase_that_is_over() -> None:
    left = {(phase, event) for phase, event in TRANSITIONS if phase.is_over}
    assert left == {
        (Phase.PROMOTED, Event.UNDO),
        (Phase.ROLLED_BACK, Event.RETRY),
        (Phase.ABORTED, Event.RETRY),
    }


def test_every_phase_can_be_reached_and_none_is_a_trap() -> None:
    reached = {Phase.PENDING}
    while more := {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached:
        reached |= more
    assert reached == set(Phase)
    assert {before for before, _ in TRANSITIONS} == set(Phase)


@pytest.mark.parametrize(
    "phase", [phase for phase in Phase if not phase.is_over and phase is not Phase.PENDING]
)
def test_a_started_experiment_can_always_lose(phase: Phase) -> None:
    assert follow(phase, Event.LOSE) is Phase.ROLLED_BACK


@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.is_over])
def test_a_person_can_always_abort_what_goes_on(phase: Phase) -> None:
    assert follow(phase, Event.ABORT) is Phase.ABORTED


def test_a_promotion_is_committed_only_from_promoting() -> None:
    assert [before for (before, _), after in TRANSITIONS.items() if after is Phase.PROMOTED] == [
        Phase.PROMOTING
    ]


def test_the_diagram_in_the_documentation_is_the_tables() -> None:
    assert f"```mermaid\n{diagram()}\n```" in DOCUMENT.read_text()
