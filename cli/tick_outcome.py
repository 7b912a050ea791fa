"""What one tick came to, as a CI job wants to know it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from anabranch.bandit.lifecycle import Phase
from anabranch.cli.exit_codes import ExitCode
from anabranch.store.port import StoredExperiment


class Outcome(StrEnum):
    """What is said of an experiment, or of all of them together."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    HOLDING = "holding"
    NOTHING = "nothing to do"


EXIT_CODES: Mapping[Outcome, ExitCode] = {
    Outcome.PROMOTED: ExitCode.OK,
    Outcome.ROLLED_BACK: ExitCode.ROLLED_BACK,
    Outcome.HOLDING: ExitCode.HOLDING,
    Outcome.NOTHING: ExitCode.NOTHING_TO_DO,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TickView:
    """One experiment after a tick.

    Attributes:
        phase: Where it stands now.
        decided: What the tick decided about it; empty when it decided nothing.
    """

    name: str
    phase: Phase
    outcome: Outcome
    decided: str


def tick_views(
    before: Iterable[StoredExperiment],
    after: Iterable[StoredExperiment],
    decided: Mapping[str, str],
    name: str | None,
) -> list[TickView]:
    """The experiments that were going on before the tick, or the one that was asked about.

    Args:
        before: All experiments before it.
        after: All of them after it.
        decided: What it decided, by experiment.
        name: The one that was asked about, however long it has been over.
    """
    was_over = {kept.name: kept.state.phase.is_over for kept in before}
    return [
        TickView(
            name=kept.name,
            phase=kept.state.phase,
            outcome=_outcome(kept.state.phase),
            decided=decided.get(kept.name, ""),
        )
        for kept in after
        if (
            kept.name == name
            if name is not None
            else not was_over.get(kept.name, False) or kept.name in decided
        )
    ]


def overall(views: Iterable[TickView]) -> Outcome:
    """The worst of the outcomes: green means that everything that went on was promoted."""
    found = {view.outcome for view in views}
    for outcome in (Outcome.ROLLED_BACK, Outcome.HOLDING, Outcome.PROMOTED):
        if outcome in found:
            return outcome
    return Outcome.NOTHING


def _outcome(phase: Phase) -> Outcome:
    if phase is Phase.PROMOTED:
        return Outcome.PROMOTED
    return Outcome.ROLLED_BACK if phase.is_over else Outcome.HOLDING
