"""When a step is over: one rule per kind of step, each with its reason in a sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from anabranch.bandit import choose
from anabranch.bandit.course import Course, commit, next_step, win
from anabranch.bandit.decision import Change
from anabranch.bandit.gating import are_open, gate_step_over, may_enter, step_occasion
from anabranch.bandit.hooks import GateKind
from anabranch.bandit.lifecycle import Event, Phase
from anabranch.bandit.spec import (
    AnalysisStep,
    BanditStep,
    GateStep,
    Metric,
    MirrorStep,
    PauseStep,
    PromoteStep,
    SetWeightStep,
    Step,
)
from anabranch.bandit.verdicts import Outcome


def advance_steps(course: Course) -> None:
    """Leave every step that is over; a step that is entered here may be over at once."""
    while course.state.phase.is_moving:
        if course.step is None:
            course.enter(Event.PAUSE, "all steps are done: promote or abort")
            return
        if not may_enter(course):
            return
        reason = _why_over(course, course.step)
        if reason is None:
            return
        course.note(Change.STEP, reason)
        next_step(course)


def _why_over(course: Course, step: Step) -> str | None:
    """Why a step is over, or None while it is not."""
    match step:
        case MirrorStep():
            return _mirror_over(course, step)
        case SetWeightStep():
            return f"every live candidate gets {step.weight:.1%} of the traffic"
        case PauseStep():
            over = step.duration_s is not None and course.elapsed_s >= step.duration_s
            return f"waited {course.elapsed_s:.0f} s" if over else None
        case GateStep():
            return gate_step_over(course, step)
        case AnalysisStep():
            return _analysis_over(course, step)
        case BanditStep():
            return _bandit_over(course, step)
        case PromoteStep():
            return _promote_over(course, step)
        case _:
            assert_never(step)


def _mirror_over(course: Course, step: MirrorStep) -> str | None:
    undecided = sorted(
        {
            name
            for candidate in course.state.live
            for name in step.until_decided
            if not course.passes(name, candidate)
        }
    )
    if step.until_decided and not undecided:
        return f"{', '.join(step.until_decided)} decided for every live candidate"
    if course.elapsed_s < step.max_duration_s:
        return None
    if not undecided:
        return f"mirrored for {course.elapsed_s:.0f} s"
    return f"mirroring goes on beside the next steps: {', '.join(undecided)} undecided after {course.elapsed_s:.0f} s"


def _analysis_over(course: Course, step: AnalysisStep) -> str | None:
    if course.elapsed_s < step.min_duration_s:
        return None
    undecided = {candidate: course.open_guardrails(candidate) for candidate in course.state.live}
    undecided = {candidate: names for candidate, names in undecided.items() if names}
    objective = _awaited_objective(course)
    if not undecided and objective is None:
        return f"every guardrail holds for {', '.join(course.state.live)}"
    if not undecided and objective is not None:
        found = {name: course.verdict(objective.name, name) for name in course.state.live}
        better = [name for name, verdict in found.items() if verdict and verdict.outcome is Outcome.PASS]
        if better:
            return f"every guardrail holds, and {', '.join(better)} is better than the baseline"
        if all(verdict and verdict.outcome is Outcome.FAIL for verdict in found.values()):
            course.enter(Event.UNDECIDED, "no candidate is better than the baseline, which is kept")
            return None
        undecided = {name: [objective.name] for name in course.state.live}
    if step.max_duration_s is not None and course.elapsed_s >= step.max_duration_s:
        listed = "; ".join(f"{candidate}: {', '.join(names)}" for candidate, names in undecided.items())
        course.enter(
            Event.UNDECIDED, f"undecided after {course.elapsed_s:.0f} s, the baseline is kept: {listed}"
        )
    return None


def _awaited_objective(course: Course) -> Metric | None:
    """The objective, where an analysis is the last chance to prove it: a later bandit step would do it."""
    later = course.experiment.steps[course.state.step + 1 :]
    is_last_chance = any(isinstance(step, PromoteStep) for step in later) and not any(
        isinstance(step, BanditStep) for step in later
    )
    return course.experiment.objective if is_last_chance else None


def _bandit_over(course: Course, step: BanditStep) -> str | None:
    if course.elapsed_s < step.min_duration_s:
        return None
    verdict = choose.winner(
        course.experiment, course.state, step, is_last_call=course.elapsed_s >= step.max_duration_s
    )
    if verdict is not None:
        course.state = replace(course.state, winner=verdict.variant)
        course.note(Change.WINNER, verdict.reason, verdict.variant)
        return f"the bandit ends with {verdict.variant}"
    if course.elapsed_s >= step.max_duration_s:
        listed = "; ".join(
            f"{candidate}: {', '.join(choose.open_claims(course.experiment, course.state, candidate))}"
            for candidate in course.state.live
        )
        doubt = choose.ratio_doubt(course.experiment, course.state)
        course.enter(
            Event.UNDECIDED,
            f"no candidate is proven after {course.elapsed_s:.0f} s, the baseline is kept: {doubt or listed}",
        )
    return None


def _promote_over(course: Course, step: PromoteStep) -> str | None:
    if course.state.phase is Phase.PROGRESSING:
        age_s = course.now - course.state.started_s
        if age_s < course.experiment.min_age_s:
            return None
        candidate = course.state.winner or choose.sound_leader(course.experiment, course.state)
        if candidate is None:
            doubt = choose.ratio_doubt(course.experiment, course.state)
            reason = doubt or "no candidate has passed every guardrail"
            course.enter(Event.UNDECIDED, f"{reason}, the baseline is kept")
            return None
        if course.experiment.observes:
            course.enter(
                Event.UNDECIDED,
                f"{candidate} would be promoted; decisions are recorded only, the baseline is kept",
            )
        elif _may_promote(course, candidate):
            win(course, candidate, f"promotion of {candidate} begins")
        return None
    last = len(step.weights) - 1
    if course.state.part < last and course.elapsed_s >= step.interval_s:
        more = course.experiment.gates_of(GateKind.CONFIRM_TRAFFIC_INCREASE)
        if not are_open(course, more, step_occasion(course.state, course.state.part + 1)):
            return None
        course.state = replace(course.state, part=course.state.part + 1, step_started_s=course.now)
        share = min(step.weights[course.state.part], 1.0 - step.hold_back)
        course.note(Change.STEP, f"{course.state.winner} goes to {share:.0%}")
    elif course.state.part == last and course.elapsed_s >= step.bake_s:
        assert course.state.winner is not None, "a promotion is of somebody"
        commit(course, course.state.winner)
    return None


def _may_promote(course: Course, candidate: str) -> bool:
    """Whether everybody agrees to the promotion, and to the first weight of its ramp."""
    promotion = course.experiment.gates_of(GateKind.CONFIRM_PROMOTION)
    if not are_open(course, promotion, f"promotion of {candidate}"):
        return False
    more = course.experiment.gates_of(GateKind.CONFIRM_TRAFFIC_INCREASE)
    return are_open(course, more, step_occasion(course.state))
