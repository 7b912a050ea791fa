"""One tick of an experiment: fold the evidence, judge, hear the people, move on, and say what to do.

`tick` is pure and total: the same state, evidence, commands and time give the same result, so a controller that
dies anywhere repeats it harmlessly. Each tick goes through the same stages in the same order:

    fold → judge → commands → start → removals → steps → mirror → weights → decision

Beside the fold run what only the choice of weights and winners looks at: leaders against rivals, and recent outcomes.

A stage changes the state and notes what it did as actions; a tick without actions decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from anabranch.bandit.commands import obey
from anabranch.bandit.contenders import follow_rivals
from anabranch.bandit.course import Course, start
from anabranch.bandit.decision import Change, Command, Decision
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.exposure import set_weights, settle_mirror
from anabranch.bandit.failing import why_failed
from anabranch.bandit.fold import fold
from anabranch.bandit.futility import why_futile
from anabranch.bandit.gating import are_open
from anabranch.bandit.hooks import GateKind
from anabranch.bandit.judge import judge
from anabranch.bandit.lifecycle import Event, Phase
from anabranch.bandit.recent import remember
from anabranch.bandit.spec import AnalysisStep, BanditStep, Experiment
from anabranch.bandit.state import ExperimentState, Removal
from anabranch.bandit.step_ends import advance_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What a tick came to.

    Attributes:
        state: The state to save.
        decision: What was decided; None when there is nothing to act on.
        promoted: The variant that becomes the model's baseline with this tick.
        revised: The experiment from now on, where this tick took a changed document.
        reverted: Whether an earlier promotion is undone: the experiment's baseline serves the model again.
    """

    state: ExperimentState
    decision: Decision | None = None
    promoted: str | None = None
    reverted: bool = False
    revised: Experiment | None = None


def tick(
    experiment: Experiment,
    state: ExperimentState,
    evidence: Evidence,
    commands: Sequence[Command],
    now: float,
) -> Tick:
    """Take one tick.

    Args:
        experiment: What was asked for.
        state: The state that was saved last.
        evidence: Outcomes after `state.cursor`.
        commands: Requests of people, oldest first.
        now: Seconds since 1970; a clock that stepped back counts as one that stood still.
    """
    now = steady(state, now)
    before = state
    state = fold(experiment, state, evidence)
    state = follow_rivals(experiment, before, state, evidence)
    state = remember(experiment, state, evidence, now)
    if not state.phase.is_over:
        state = judge(experiment, state, now)
    course = Course(experiment=experiment, state=state, now=now, has_seen=not evidence.is_empty)
    _note_verdicts(course, before)
    for command in commands:
        obey(course, command)
    if course.state.phase is Phase.PENDING and _may_start(course):
        start(course)
    _remove_failed(course)
    _remove_futile(course)
    advance_steps(course)
    settle_mirror(course)
    set_weights(course)
    return _conclude(course, before, commands)


def steady(state: ExperimentState, now: float) -> float:
    """The time of a tick: a clock that stepped back stands still."""
    return max(now, state.step_started_s, state.epoch_started_s, state.allocated_s, state.paused_s or 0.0)


def _may_start(course: Course) -> bool:
    """Whether everybody agrees to the start; a test before the rollout runs once the rollout is confirmed."""
    experiment = course.experiment
    return are_open(course, experiment.gates_of(GateKind.CONFIRM_ROLLOUT), "start") and are_open(
        course, experiment.gates_of(GateKind.PRE_ROLLOUT), "start"
    )


def _note_verdicts(course: Course, before: ExperimentState) -> None:
    for key, verdict in course.state.verdicts.items():
        old = before.verdicts.get(key)
        if verdict.decided_s is not None and (old is None or old.outcome is not verdict.outcome):
            course.note(Change.VERDICT, f"{verdict.variant}: {verdict.reason}", verdict.variant)


def _remove_failed(course: Course) -> None:
    if course.state.phase.is_over or course.state.phase is Phase.PENDING:
        return
    before = course.state.live
    for candidate in before:
        if reason := why_failed(course, candidate):
            _remove(course, candidate, reason)
    if course.state.winner is None or course.state.winner in course.state.live:
        # Where the last one left as not worth the change, the baseline has been kept already.
        is_lost = not course.state.live and (bool(before) or course.state.phase is not Phase.INCONCLUSIVE)
    else:
        # Before its promotion began, the next sound candidate may take its place.
        is_lost = course.state.phase is Phase.PROMOTING or not course.state.live
        course.state = replace(course.state, winner=None)
    if not is_lost:
        return
    if not course.experiment.observes:
        course.enter(Event.LOSE, f"rolled back: {course.experiment.baseline} serves all traffic")
    elif course.state.phase is Phase.PROGRESSING:
        course.enter(
            Event.UNDECIDED, "it would be rolled back; decisions are recorded only, and none is left to make"
        )


def _remove_futile(course: Course) -> None:
    if course.state.phase is not Phase.PROGRESSING or not isinstance(course.step, AnalysisStep | BanditStep):
        return
    before = course.state.live
    for candidate in before:
        if (reason := why_futile(course.experiment, course.state, candidate)) is not None:
            _remove(course, candidate, reason)
    if before and not course.state.live:
        course.enter(
            Event.UNDECIDED, f"no candidate is worth the change, {course.experiment.baseline} is kept"
        )


def _remove(course: Course, candidate: str, reason: str) -> None:
    removal = Removal(variant=candidate, at_s=course.now, reason=reason)
    course.state = replace(
        course.state,
        live=tuple(name for name in course.state.live if name != candidate),
        removed=(*course.state.removed, removal),
    )
    what = "would be removed" if course.experiment.observes else "is removed"
    course.note(Change.REMOVED, f"{candidate} {what}: {reason}", candidate)


def _conclude(course: Course, before: ExperimentState, commands: Sequence[Command]) -> Tick:
    if not course.actions and not commands:
        return Tick(state=course.state)
    state = replace(course.state, decisions=before.decisions + 1)
    decision = Decision(
        number=state.decisions,
        at_s=course.now,
        phase=state.phase,
        step=state.step,
        epoch=state.epoch,
        weights=state.weights,
        actions=tuple(course.actions),
        verdicts=tuple(state.verdicts[key] for key in sorted(state.verdicts)),
        evidence_last=state.cursor,
        handled=tuple(command.id for command in commands),
    )
    revised = any(action.change is Change.REVISED for action in course.actions)
    return Tick(
        state=state,
        decision=decision,
        promoted=course.promoted,
        reverted=course.reverted,
        revised=course.experiment if revised else None,
    )
