"""What a tick's outcome means for the store: whether a changed document may be taken, and who serves from now on."""

from __future__ import annotations

from collections.abc import Iterable

from anabranch.bandit.decision import Command, Decision, Verb
from anabranch.bandit.lifecycle import TRANSITIONS, Event, IllegalTransition
from anabranch.bandit.revising import changes
from anabranch.bandit.spec import Experiment
from anabranch.bandit.state import ExperimentState
from anabranch.store.ledger_port import Tenure
from anabranch.store.port import Conflict


def check_revision(before: Experiment, after: Experiment, state: ExperimentState) -> list[str]:
    """What a changed document changes in an experiment that goes on, each in a few words.

    Raises:
        Conflict: If its evidence would have to restart, or its phase does not allow a change; says what to do.
    """
    if (state.phase, Event.REVISE) not in TRANSITIONS:
        standing = "about to be retried or undone" if state.phase.is_over else str(state.phase)
        raise Conflict(
            f"experiment {before.name} is {standing}: abort it before applying a changed document, or choose another name"
        )
    try:
        return changes(before, after, state)
    except IllegalTransition as refusal:
        raise Conflict(f"experiment {before.name} is {state.phase}: {refusal}") from refusal


def asks_anew(name: str, pending: Iterable[Command], text: str) -> bool:
    """Whether a changed document is still to be asked for; the same one may wait for the next tick already.

    Args:
        name: The experiment.
        pending: What waits for the next tick.
        text: The document.

    Raises:
        Conflict: If another document waits.
    """
    waiting = [command for command in pending if command.verb is Verb.REVISE]
    if any(command.argument != text for command in waiting):
        raise Conflict(
            f"experiment {name}: another changed document waits for the next tick; apply this one after it"
        )
    return not waiting


def tenure_by(name: str, decision: Decision | None, baseline: tuple[str, str], now: float) -> Tenure:
    """The time that begins with a decision.

    Args:
        name: The experiment.
        decision: What made it so.
        baseline: Model and variant.
        now: When.
    """
    return Tenure(
        model=baseline[0],
        since_s=now if decision is None else decision.at_s,
        variant=baseline[1],
        experiment=name,
        decision=0 if decision is None else decision.number,
        reason="" if decision is None else decision.summary,
    )
