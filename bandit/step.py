"""One tick of an experiment: fold the evidence, judge, hear the people, move on, and say what to do.

`tick` is pure and total: the same state, evidence, commands and time give the same result, so a controller that
dies anywhere repeats it harmlessly. Each tick goes through the same stages in the same order:

    fold → judge → commands → start → removals → steps → mirror → weights → decision

A stage changes the state and notes what it did as actions; a tick without actions decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from anabranch.bandit import choose
from anabranch.bandit.allocation import next_weights
from anabranch.bandit.decision import Action, Change, Command, Decision, Verb
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.fold import fold, test_key
from anabranch.bandit.judge import judge
from anabranch.bandit.lifecycle import Event, IllegalTransition, Phase, follow
from anabranch.bandit.spec import (
    AnalysisStep,
    BanditStep,
    Experiment,
    MirrorStep,
    PauseStep,
    PromoteStep,
    Role,
    SetWeightStep,
    Step,
)
from anabranch.bandit.state import ExperimentState, Removal
from anabranch.bandit.verdicts import Outcome, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What a tick came to.

    Attributes:
        state: The state to save.
        decision: What was decided; None when there is nothing to act on.
        promoted: The variant that becomes the model's baseline with this tick.
        reverted: Whether an earlier promotion is undone: the experiment's baseline serves the model again.
    """

    state: ExperimentState
    decision: Decision | None = None
    promoted: str | None = None
    reverted: bool = False


@dataclass(slots=True)
class _Course:
    """The state and the actions while a tick goes through its stages."""

    experiment: Experiment
    state: ExperimentState
    now: float
    actions: list[Action] = field(default_factory=list)
    promoted: str | None = None
    reverted: bool = False

    def note(self, change: Change, reason: str, variant: str = "") -> None:
        self.actions.append(Action(change=change, reason=reason, variant=variant))

    def enter(self, event: Event, reason: str) -> None:
        """Follow a transition; raises IllegalTransition and changes nothing where there is none."""
        self.state = replace(self.state, phase=follow(self.state.phase, event))
        self.note(Change.PHASE, reason)

    @property
    def step(self) -> Step | None:
        """The step the experiment is in, None after the last."""
        steps = self.experiment.steps
        return steps[self.state.step] if self.state.step < len(steps) else None

    @property
    def elapsed_s(self) -> float:
        """Time in the current step."""
        return self.now - self.state.step_started_s

    def verdict(self, metric: str, candidate: str) -> Verdict | None:
        return self.state.verdicts.get(test_key(metric, candidate))

    def passes(self, metric: str, candidate: str) -> bool:
        found = self.verdict(metric, candidate)
        return found is not None and found.outcome is Outcome.PASS

    def open_guardrails(self, candidate: str) -> list[str]:
        """Names of the guardrails that have not passed."""
        return [m.name for m in self.experiment.guardrails if not self.passes(m.name, candidate)]


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
    now = max(now, state.step_started_s, state.epoch_started_s)
    before = state
    state = fold(experiment, state, evidence)
    if not state.phase.is_over:
        state = judge(experiment, state, now)
    course = _Course(experiment=experiment, state=state, now=now)
    _note_verdicts(course, before)
    for command in commands:
        _obey(course, command)
    if course.state.phase is Phase.PENDING:
        _start(course)
    _remove_failed(course)
    _advance_steps(course)
    _settle_mirror(course)
    _set_weights(course)
    return _conclude(course, before, commands)


def _note_verdicts(course: _Course, before: ExperimentState) -> None:
    for key, verdict in course.state.verdicts.items():
        old = before.verdicts.get(key)
        if verdict.decided_s is not None and (old is None or old.outcome is not verdict.outcome):
            course.note(Change.VERDICT, f"{verdict.variant}: {verdict.reason}", verdict.variant)


def _obey(course: _Course, command: Command) -> None:
    try:
        _follow_command(course, command)
    except IllegalTransition as refusal:
        course.note(Change.REFUSED, f"{command.verb} by {command.actor} refused: {refusal}")


def _follow_command(course: _Course, command: Command) -> None:
    by = f"by {command.actor}"
    state = course.state
    match command.verb:
        case Verb.PAUSE:
            course.enter(Event.PAUSE, f"paused {by}")
        case Verb.RESUME:
            course.enter(Event.RESUME, f"resumed {by}")
            if isinstance(course.step, PauseStep) and course.step.duration_s is None:
                _next_step(course)
        case Verb.ABORT:
            course.enter(Event.ABORT, f"aborted {by}: {course.experiment.baseline} serves all traffic")
        case Verb.RETRY:
            course.enter(Event.RETRY, f"started again {by}")
            course.state = ExperimentState(
                decisions=state.decisions, epoch=state.epoch + 1, cursor=state.cursor, weights=state.weights
            )
        case Verb.UNDO:
            course.reverted = state.phase is Phase.PROMOTED
            course.enter(
                Event.UNDO, f"promotion undone {by}: {course.experiment.baseline} serves all traffic"
            )
            course.state = replace(course.state, winner=None)
        case Verb.PROMOTE:
            candidate = command.argument or choose.leader(course.experiment, state, state.live)
            if candidate not in state.live:
                live = ", ".join(state.live) or "none"
                raise IllegalTransition(f"{candidate or 'nothing'} is not a live candidate; live are {live}")
            _win(course, candidate, f"{candidate} is promoted {by}, whatever the verdicts")
        case _:
            assert_never(command.verb)


def _start(course: _Course) -> None:
    candidates = course.experiment.candidates
    course.state = replace(
        course.state,
        live=candidates,
        started_s=course.now,
        step=0,
        step_started_s=course.now,
        epoch_started_s=course.now,
        weights=_weights(course.experiment, {}),
    )
    course.enter(
        Event.START, f"started with {len(candidates)} candidates against {course.experiment.baseline}"
    )
    _begin_step(course)


def _remove_failed(course: _Course) -> None:
    if course.state.phase.is_over or course.state.phase is Phase.PENDING:
        return
    for candidate in course.state.live:
        failures = [
            verdict.reason
            for metric in course.experiment.metrics
            if metric.role is Role.GUARDRAIL or isinstance(course.step, BanditStep)
            if (verdict := course.verdict(metric.name, candidate)) is not None
            if verdict.outcome is Outcome.FAIL
        ]
        if failures:
            _remove(course, candidate, "; ".join(failures))
    lost_winner = course.state.winner is not None and course.state.winner not in course.state.live
    if not course.state.live or lost_winner:
        course.enter(Event.LOSE, f"rolled back: {course.experiment.baseline} serves all traffic")
        course.state = replace(course.state, winner=None)


def _remove(course: _Course, candidate: str, reason: str) -> None:
    removal = Removal(variant=candidate, at_s=course.now, reason=reason)
    course.state = replace(
        course.state,
        live=tuple(name for name in course.state.live if name != candidate),
        removed=(*course.state.removed, removal),
    )
    course.note(Change.REMOVED, f"{candidate} is removed: {reason}", candidate)


def _advance_steps(course: _Course) -> None:
    """Leave every step that is over; a step that is entered here may be over at once."""
    while course.state.phase.is_moving:
        if course.step is None:
            course.enter(Event.PAUSE, "all steps are done: promote or abort")
            return
        reason = _why_over(course, course.step)
        if reason is None:
            return
        course.note(Change.STEP, reason)
        _next_step(course)


def _next_step(course: _Course) -> None:
    course.state = replace(course.state, step=course.state.step + 1, step_started_s=course.now, part=0)
    _begin_step(course)


def _begin_step(course: _Course) -> None:
    step = course.step
    if isinstance(step, MirrorStep):
        course.state = replace(course.state, mirror=step.fraction)
    elif isinstance(step, PauseStep) and step.duration_s is None:
        course.enter(Event.PAUSE, "waits for a person: resume, promote or abort")


def _why_over(course: _Course, step: Step) -> str | None:
    """Why a step is over, or None while it is not."""
    match step:
        case MirrorStep():
            return _mirror_over(course, step)
        case SetWeightStep():
            return f"every live candidate gets {step.weight:.1%} of the traffic"
        case PauseStep():
            over = step.duration_s is not None and course.elapsed_s >= step.duration_s
            return f"waited {course.elapsed_s:.0f} s" if over else None
        case AnalysisStep():
            return _analysis_over(course, step)
        case BanditStep():
            return _bandit_over(course, step)
        case PromoteStep():
            return _promote_over(course, step)
        case _:
            assert_never(step)


def _mirror_over(course: _Course, step: MirrorStep) -> str | None:
    undecided = sorted(
        {
            name
            for candidate in course.state.live
            for name in step.until_decided
            if not course.passes(name, candidate)
        }
    )
    if step.until_decided and not undecided:
        course.state = replace(course.state, mirror=0.0)
        return f"mirroring ends: {', '.join(step.until_decided)} decided for every live candidate"
    if course.elapsed_s < step.max_duration_s:
        return None
    if not undecided:
        course.state = replace(course.state, mirror=0.0)
        return f"mirroring ends after {course.elapsed_s:.0f} s"
    return f"mirroring goes on beside the next steps: {', '.join(undecided)} undecided after {course.elapsed_s:.0f} s"


def _analysis_over(course: _Course, step: AnalysisStep) -> str | None:
    if course.elapsed_s < step.min_duration_s:
        return None
    undecided = {candidate: course.open_guardrails(candidate) for candidate in course.state.live}
    undecided = {candidate: names for candidate, names in undecided.items() if names}
    if not undecided:
        return f"every guardrail holds for {', '.join(course.state.live)}"
    if step.max_duration_s is not None and course.elapsed_s >= step.max_duration_s:
        listed = "; ".join(f"{candidate}: {', '.join(names)}" for candidate, names in undecided.items())
        course.enter(
            Event.UNDECIDED, f"undecided after {course.elapsed_s:.0f} s, the baseline is kept: {listed}"
        )
    return None


def _bandit_over(course: _Course, step: BanditStep) -> str | None:
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
        course.enter(
            Event.UNDECIDED,
            f"no candidate is proven after {course.elapsed_s:.0f} s, the baseline is kept: {listed}",
        )
    return None


def _promote_over(course: _Course, step: PromoteStep) -> str | None:
    if course.state.phase is Phase.PROGRESSING:
        candidate = course.state.winner or choose.sound_leader(course.experiment, course.state)
        if candidate is None:
            course.enter(Event.UNDECIDED, "no candidate has passed every guardrail, the baseline is kept")
            return None
        _win(course, candidate, f"promotion of {candidate} begins")
        return None
    last = len(step.weights) - 1
    if course.state.part < last and course.elapsed_s >= step.interval_s:
        course.state = replace(course.state, part=course.state.part + 1, step_started_s=course.now)
        course.note(Change.STEP, f"{course.state.winner} goes to {step.weights[course.state.part]:.0%}")
    elif course.state.part == last and course.elapsed_s >= step.bake_s:
        course.promoted = course.state.winner
        course.enter(Event.COMMIT, f"{course.state.winner} is the new baseline of {course.experiment.model}")
    return None


def _win(course: _Course, candidate: str, reason: str) -> None:
    steps = course.experiment.steps
    at = next((index for index, step in enumerate(steps) if isinstance(step, PromoteStep)), None)
    course.enter(Event.WIN, reason)
    course.state = replace(
        course.state,
        winner=candidate,
        step=len(steps) if at is None else at,
        step_started_s=course.now,
        part=0,
        mirror=0.0,
    )
    if at is None:
        course.promoted = candidate
        course.enter(Event.COMMIT, f"{candidate} is the new baseline of {course.experiment.model}")


def _settle_mirror(course: _Course) -> None:
    """Stop copying when nothing asks for it any more."""
    state, step = course.state, course.step
    if state.mirror == 0.0 or (isinstance(step, MirrorStep) and state.phase.is_moving):
        return
    asked = next(
        (s for s in reversed(course.experiment.steps[: state.step]) if isinstance(s, MirrorStep)), None
    )
    open_ = asked is not None and any(
        not course.passes(name, candidate) for candidate in state.live for name in asked.until_decided
    )
    if not open_ or state.phase.is_over or state.phase in (Phase.INCONCLUSIVE, Phase.PROMOTING):
        course.state = replace(state, mirror=0.0)
        course.note(Change.STEP, "mirroring ends")


def _set_weights(course: _Course) -> None:
    weights = _wanted_weights(course)
    state = course.state
    if weights is None or _weights(course.experiment, weights) == dict(state.weights):
        return
    full = _weights(course.experiment, weights)
    course.state = replace(
        course.state,
        weights=full,
        epoch=state.epoch + 1,
        epoch_started_s=course.now,
    )
    shares = ", ".join(f"{arm} {share:.1%}" for arm, share in full.items() if share > 0)
    course.note(Change.WEIGHTS, f"weights: {shares}")


def _wanted_weights(course: _Course) -> Mapping[str, float] | None:
    """The candidates' shares from now on; None keeps what is."""
    state, step = course.state, course.step
    live = {candidate: state.weights.get(candidate, 0.0) for candidate in state.live}
    match state.phase:
        case Phase.PENDING:
            return None
        case Phase.ROLLED_BACK | Phase.ABORTED | Phase.INCONCLUSIVE:
            return {}
        case Phase.PROMOTED:
            return {state.winner: 1.0} if state.winner else {}
        case Phase.PROMOTING:
            assert state.winner is not None
            return {state.winner: step.weights[state.part] if isinstance(step, PromoteStep) else 1.0}
        case Phase.PAUSED:
            return live
        case Phase.PROGRESSING:
            if isinstance(step, BanditStep):
                return _bandit_weights(course, step, live)
            return _last_set_weight(course, live)
        case _:
            assert_never(state.phase)


def _bandit_weights(course: _Course, step: BanditStep, live: Mapping[str, float]) -> Mapping[str, float]:
    state = course.state
    lost_arm = set(live) != {arm for arm, share in state.weights.items() if share > 0} - {
        course.experiment.baseline
    }
    begins = state.allocated_s < state.step_started_s
    if not (begins or lost_arm or course.now - state.allocated_s >= step.update_period_s):
        return live
    course.state = replace(state, allocated_s=course.now)
    return next_weights(course.experiment, state, step)


def _last_set_weight(course: _Course, live: Mapping[str, float]) -> Mapping[str, float]:
    """What the last `setWeight` step up to here says, for the candidates that are left."""
    for step in reversed(course.experiment.steps[: course.state.step + 1]):
        if isinstance(step, SetWeightStep):
            return dict.fromkeys(live, step.weight)
        if isinstance(step, BanditStep):
            return live
    return dict.fromkeys(live, 0.0)


def _weights(experiment: Experiment, candidates: Mapping[str, float]) -> dict[str, float]:
    shares = {name: candidates.get(name, 0.0) for name in experiment.candidates}
    return {experiment.baseline: max(0.0, 1.0 - sum(shares.values())), **shares}


def _conclude(course: _Course, before: ExperimentState, commands: Sequence[Command]) -> Tick:
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
    return Tick(state=state, decision=decision, promoted=course.promoted, reverted=course.reverted)
