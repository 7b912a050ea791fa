"""The steps of an experiment as people see them: what each does, when it is over, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from anabranch.bandit.decision import Change, Decision
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import (
    AnalysisStep,
    BanditStep,
    Experiment,
    GateStep,
    MirrorStep,
    PauseStep,
    PromoteStep,
    SetWeightStep,
    Step,
    kind_of,
)
from anabranch.bandit.state import ExperimentState
from anabranch.cli.numbers import duration, share
from anabranch.cli.view_types import StepState, StepView

_BY_A_PERSON = " is promoted by "
"""In the reason of a promotion that a person asked for: it goes to the promote step from wherever it was."""


def step_views(
    experiment: Experiment, state: ExperimentState, run: Sequence[Decision], now: float
) -> tuple[StepView, ...]:
    """Every step, in order.

    Args:
        experiment: The spec.
        state: Where it stands.
        run: The decisions since the experiment was last started, oldest first.
        now: Seconds since 1970; the end of the experiment when it is over.
    """
    entered = _entered(run, len(experiment.steps))
    skipped = _skipped(run)
    views = []
    for index, step in enumerate(experiment.steps):
        place = _state_of(index, state, skipped)
        views.append(
            StepView(
                number=index + 1,
                kind=kind_of(step),
                title=title(step),
                detail=detail(step),
                state=place,
                progress=_progress(step, state) if place is StepState.CURRENT else "",
                elapsed_s=_elapsed(index, place, state, entered, now),
            )
        )
    return tuple(views)


def title(step: Step) -> str:
    """The step's kind and its main setting, in a few characters."""
    match step:
        case MirrorStep():
            return f"mirror {share(step.fraction)}"
        case SetWeightStep():
            return f"setWeight {share(step.weight)}"
        case PauseStep():
            return "pause" if step.duration_s is None else f"pause {duration(step.duration_s)}"
        case GateStep():
            return f"gate {step.gate.name}"
        case AnalysisStep() | BanditStep() | PromoteStep():
            return kind_of(step)
        case _:
            assert_never(step)


def detail(step: Step) -> str:
    """When the step is over, in words."""
    match step:
        case MirrorStep():
            until = f"until {', '.join(step.until_decided)} decided, " if step.until_decided else ""
            return f"{until}at most {duration(step.max_duration_s)}"
        case SetWeightStep():
            return "for each live candidate"
        case PauseStep():
            return "until a person resumes" if step.duration_s is None else ""
        case GateStep():
            who = "its webhook says yes" if step.gate.webhook else "a person approves"
            most = "" if step.max_duration_s is None else f", at most {duration(step.max_duration_s)}"
            return f"until {who}{most}"
        case AnalysisStep():
            least = f", at least {duration(step.min_duration_s)}" if step.min_duration_s else ""
            most = "" if step.max_duration_s is None else f", at most {duration(step.max_duration_s)}"
            return f"until every guardrail is decided{least}{most}"
        case BanditStep():
            least = f"at least {duration(step.min_duration_s)}, " if step.min_duration_s else ""
            return (
                f"{step.algorithm}, every {duration(step.update_period_s)}, up to {share(step.max_weight)} each, "
                f"{least}at most {duration(step.max_duration_s)}"
            )
        case PromoteStep():
            ramp = " → ".join(share(weight) for weight in step.weights)
            every = f" every {duration(step.interval_s)}" if len(step.weights) > 1 else ""
            return f"{ramp}{every}, bake {duration(step.bake_s)}" if step.bake_s else f"{ramp}{every}"
        case _:
            assert_never(step)


def _progress(step: Step, state: ExperimentState) -> str:
    if not isinstance(step, PromoteStep) or state.phase is not Phase.PROMOTING:
        return ""
    here = f"{state.winner} at {share(step.weights[state.part])}"
    return f"{here}, baking" if state.part == len(step.weights) - 1 and step.bake_s else here


def _state_of(index: int, state: ExperimentState, skipped: frozenset[int]) -> StepState:
    if index in skipped:
        return StepState.SKIPPED
    if state.phase is Phase.PENDING or index > state.step:
        return StepState.WAITING
    if index < state.step or state.phase is Phase.PROMOTED:
        return StepState.DONE
    ended = state.phase.is_over or state.phase is Phase.INCONCLUSIVE
    return StepState.STOPPED if ended else StepState.CURRENT


def _entered(run: Sequence[Decision], steps: int) -> list[float | None]:
    """By step, and one past the last: when the experiment came to it or beyond."""
    return [next((d.at_s for d in run if d.step >= index), None) for index in range(steps + 1)]


def _skipped(run: Sequence[Decision]) -> frozenset[int]:
    """Steps that a person's promotion jumped over."""
    skipped: set[int] = set()
    place = 0
    for decision in run:
        if any(
            action.change is Change.PHASE and _BY_A_PERSON in action.reason for action in decision.actions
        ):
            skipped.update(range(place + 1, decision.step))
        place = decision.step
    return frozenset(skipped)


def _elapsed(
    index: int, place: StepState, state: ExperimentState, entered: Sequence[float | None], now: float
) -> float | None:
    begun, left = entered[index], entered[index + 1]
    if place in (StepState.WAITING, StepState.SKIPPED):
        return None
    if place is StepState.CURRENT:
        # A ramp restarts the step's clock with every weight; the first entry counts the whole step.
        return max(0.0, now - (state.step_started_s if begun is None else begun))
    if begun is None:
        return None
    return max(0.0, (now if left is None else left) - begun)
