"""Sentences about an experiment that several displays share."""

from __future__ import annotations

from collections.abc import Iterable

from anabranch.cli.numbers import count, duration, in_unit, share
from anabranch.cli.view_types import (
    ActionView,
    ArmView,
    DecisionView,
    ExperimentView,
    LabelsView,
    Limit,
    VerdictView,
)


def telling(decision: DecisionView) -> list[ActionView]:
    """A decision's actions without the verdicts that a removal in the same decision repeats."""
    removals = [action.reason for action in decision.actions if action.change == "removed"]

    def is_repeated(action: ActionView) -> bool:
        verdict = action.reason.removeprefix(f"{action.variant}: ")
        return action.change == "verdict" and any(verdict in removal for removal in removals)

    return [action for action in decision.actions if not is_repeated(action)]


def reason_of(action: ActionView) -> str:
    """An action's reason without its kind in front, for displays that show the kind."""
    return action.reason.removeprefix(f"{action.change}: ")


def current(view: ExperimentView) -> list[DecisionView]:
    """The decisions of the spec version that runs now: times and numbers begin again with each version."""
    return [decision for decision in view.decisions if decision.spec_version == view.spec_version]


def earlier_versions(view: ExperimentView) -> str:
    """Where the decisions of earlier spec versions are; empty when there are none."""
    earlier = view.spec_version - 1
    if not earlier:
        return ""
    return f"{earlier} earlier version{'s' if earlier > 1 else ''}: see `anabranch history {view.name}`"


def shortened(reason: str, width: int) -> str:
    """A reason that fits: the numbers in brackets go first, then whatever is too long."""
    if len(reason) <= width:
        return reason
    head, bracket, _ = reason.partition(" (")
    if bracket and len(head) <= width:
        return head
    return (head if bracket else reason)[: max(1, width - 1)] + "…"


def is_settled(view: ExperimentView) -> bool:
    """Whether ticks change nothing more until a person asks for something, and nobody has."""
    return (view.is_over or view.phase == "Inconclusive") and not view.requests


def outcome(view: ExperimentView) -> str:
    """How the experiment stands or ended, in one or two sentences."""
    served = f"{count(sum(arm.requests for arm in view.arms))} requests"
    spent = "" if view.elapsed_s is None else f" after {duration(view.elapsed_s)} and {served}"
    removed = [arm.name for arm in view.arms if arm.removed_reason]
    gone = f" Removed on the way: {listed(removed)}." if removed else ""
    match view.phase:
        case "Promoted":
            return f"{view.winner} became the baseline of {view.model}{spent}.{advantage(view)}{gone}"
        case "RolledBack":
            return f"{view.baseline} serves all traffic of {view.model} again{spent}.{gone}"
        case "Aborted":
            return f"A person ended it{spent}; {view.baseline} serves all traffic of {view.model}.{gone}"
        case "Inconclusive":
            return f"Nothing was proven{spent}; {view.baseline} serves all traffic of {view.model}.{gone}"
        case "Pending":
            return "It has not begun."
        case _:
            step = view.steps[view.step - 1].title if view.steps else "none"
            return (
                f"It is {view.phase.lower()}{spent}, in step {view.step} of {len(view.steps)} ({step}).{gone}"
            )


TABLE_COVERS = (
    "The numbers of each variant cover the whole run, mirroring included; verdicts compare only outcomes "
    "from when the arms ran side by side."
)
"""Why a variant's latency and a verdict's estimate of it differ."""

EVIDENCE_MEANS = (
    '"Evidence for X of Y": the outcomes are X times likelier than if the claim were false; '
    "Y is what the experiment's error probability asks for."
)


def advantage(view: ExperimentView) -> str:
    """What the winner's objective is against the baseline's, where there are both."""
    winner = next((arm for arm in view.arms if arm.name == view.winner), None)
    found = None if winner is None else objective_of(winner)
    if found is None or found.estimate is None or found.baseline is None:
        return ""
    what = found.metric if found.statistic == "mean" else f"{found.metric} {found.statistic}"
    mine, other = (in_unit(found.unit, value) for value in (found.estimate, found.baseline))
    return f" Side by side, its {what} is {mine}, {view.baseline}'s is {other}."


def objective_of(arm: ArmView) -> VerdictView | None:
    """The arm's verdict on the objective."""
    return next((verdict for verdict in arm.verdicts if verdict.limit_kind is Limit.BETTER), None)


def listed(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    known = list(names)
    return " and ".join([", ".join(known[:-1]), known[-1]]) if len(known) > 1 else "".join(known)


def traffic(weights: dict[str, float]) -> str:
    """Who has which share, in the order of the spec."""
    return ", ".join(f"{arm} {share(weight)}" for arm, weight in weights.items() if weight > 0)


def labels_told(labels: LabelsView) -> str:
    """What became of a feedback's label windows, in a sentence."""
    what = "compared replies" if labels.is_paired else "requests"
    return (
        f"{labels.source}, {what}: {count(labels.labelled)} count with a label, {count(labels.unlabelled)} had none in time, "
        f"{count(labels.waiting)} wait; {count(labels.late)} labels came too late"
    )
