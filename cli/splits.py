"""The traffic split over time, from the decision log: which weights applied from when on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anabranch.cli.view_types import DecisionView, ExperimentView


@dataclass(frozen=True, slots=True)
class Split:
    """Weights that applied from a moment on.

    Attributes:
        since_start_s: Seconds since the start of the run.
        weights: By arm, in [0, 1].
    """

    since_start_s: float
    weights: Mapping[str, float]


def splits_of(view: ExperimentView, decisions: Sequence[DecisionView]) -> tuple[Split, ...]:
    """Every change of the weights in the run that the view shows, oldest first.

    Args:
        view: Of the experiment.
        decisions: Its log, of earlier runs too.
    """
    if view.elapsed_s is None:
        return ()
    start_s = run_start_s(view, decisions)
    found: list[Split] = []
    for decision in decisions:
        if decision.spec_version != view.spec_version or decision.at_s < start_s:
            continue
        if not found or dict(decision.weights) != dict(found[-1].weights):
            found.append(Split(decision.at_s - start_s, dict(decision.weights)))
    return tuple(found)


def run_start_s(view: ExperimentView, decisions: Sequence[DecisionView]) -> float:
    """When the run began that the view shows: with the last decision that started it."""
    started = [
        decision.at_s
        for decision in decisions
        if decision.spec_version == view.spec_version
        and any(action.change == "restarted" for action in decision.actions)
    ]
    mine = [decision.at_s for decision in decisions if decision.spec_version == view.spec_version]
    return max(started) if started else min(mine, default=view.at_s)


def weights_at(splits: Sequence[Split], since_start_s: float) -> Mapping[str, float]:
    """The weights at a moment; those of the first change before it."""
    found: Mapping[str, float] = splits[0].weights if splits else {}
    for split in splits:
        if split.since_start_s > since_start_s:
            break
        found = split.weights
    return found
