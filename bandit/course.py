"""The course of one tick: the state on its way through the stages, what was done to it, and the moves they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from anabranch.bandit.costs import saving_text
from anabranch.bandit.decision import Action, Change
from anabranch.bandit.fold import test_key
from anabranch.bandit.lifecycle import Event, Phase, follow
from anabranch.bandit.spec import Experiment, PauseStep, PromoteStep, Step
from anabranch.bandit.state import ExperimentState, GateVisit, Reply
from anabranch.bandit.verdicts import Outcome, Verdict


@dataclass(slots=True)
class Course:
    """The state and the actions while a tick goes through its stages.

    Attributes:
        has_seen: Whether this tick folded any outcome in.
    """

    experiment: Experiment
    state: ExperimentState
    now: float
    actions: list[Action] = field(default_factory=list)
    promoted: str | None = None
    reverted: bool = False
    has_seen: bool = False

    def note(self, change: Change, reason: str, variant: str = "") -> None:
        """Remember one thing that was done, and why."""
        self.actions.append(Action(change=change, reason=reason, variant=variant))

    def enter(self, event: Event, reason: str) -> None:
        """Follow a transition; raises IllegalTransition and changes nothing where there is none."""
        before, after = self.state.phase, follow(self.state.phase, event)
        self.state = replace(self.state, phase=after)
        if after is Phase.PAUSED:
            self.state = replace(self.state, paused_s=self.now)
        elif before is Phase.PAUSED and self.state.paused_s is not None:
            # A step's clock stands still while nobody may act on it.
            began = self.state.step_started_s + self.now - self.state.paused_s
            self.state = replace(self.state, paused_s=None, step_started_s=began)
        self.note(Change.RESTARTED if event is Event.RETRY else Change.PHASE, reason)

    @property
    def step(self) -> Step | None:
        """The step the experiment is in, None after the last."""
        steps = self.experiment.steps
        return steps[self.state.step] if self.state.step < len(steps) else None

    @property
    def elapsed_s(self) -> float:
        """Time in the current step, without pauses."""
        until = self.now if self.state.paused_s is None else self.state.paused_s
        return until - self.state.step_started_s

    def verdict(self, metric: str, candidate: str) -> Verdict | None:
        """The last verdict on a metric of a candidate, None before the first."""
        return self.state.verdicts.get(test_key(metric, candidate))

    def passes(self, metric: str, candidate: str) -> bool:
        """Whether a metric of a candidate is proven to hold."""
        found = self.verdict(metric, candidate)
        return found is not None and found.outcome is Outcome.PASS

    def open_guardrails(self, candidate: str) -> list[str]:
        """Names of the guardrails that have not passed."""
        return [m.name for m in self.experiment.guardrails if not self.passes(m.name, candidate)]


def start(course: Course) -> None:
    """Begin with all candidates and without any exposure, in the first step."""
    candidates = course.experiment.candidates
    course.state = replace(
        course.state,
        live=candidates,
        started_s=course.now,
        step=0,
        step_started_s=course.now,
        # What waited for gates was saved without weights: the epoch that was saved then stays as it is.
        epoch=course.state.epoch + bool(course.state.gates),
        epoch_started_s=course.now,
        weights=full_weights(course.experiment, {}),
    )
    course.enter(
        Event.START, f"started with {len(candidates)} candidates against {course.experiment.baseline}"
    )
    begin_step(course)


def begin_step(course: Course) -> None:
    """Do what a step does when it is entered."""
    step = course.step
    if isinstance(step, PauseStep) and step.duration_s is None:
        course.enter(Event.PAUSE, "waits for a person: resume, promote or abort")


def next_step(course: Course) -> None:
    """Leave the current step for the next one."""
    course.state = replace(
        course.state,
        step=course.state.step + 1,
        step_started_s=course.now,
        part=0,
        gates=_open_gates(course.state),
    )
    begin_step(course)


def win(course: Course, candidate: str, reason: str, *, skips_ramp: bool = False) -> None:
    """Begin the promotion of a candidate; without a promote step, or past it, it is committed at once."""
    steps = course.experiment.steps
    ramps = [] if skips_ramp else [at for at, step in enumerate(steps) if isinstance(step, PromoteStep)]
    at = ramps[0] if ramps else None
    course.enter(Event.WIN, reason)
    course.state = replace(
        course.state,
        winner=candidate,
        step=len(steps) if at is None else at,
        step_started_s=course.now,
        part=0,
        gates=_open_gates(course.state),
    )
    if at is None:
        commit(course, candidate)


def commit(course: Course, winner: str) -> None:
    """Make a candidate the model's new baseline; says what it saves where costs were measured."""
    course.promoted = winner
    text = f"{winner} is the new baseline of {course.experiment.model}"
    saving = saving_text(course.experiment, course.state, winner)
    course.enter(Event.COMMIT, f"{text}: {saving}" if saving else text)


def _open_gates(state: ExperimentState) -> dict[str, GateVisit]:
    """The visits to keep when the experiment goes on: nobody waits for the others any more."""
    return {name: visit for name, visit in state.gates.items() if visit.reply is Reply.YES}


def full_weights(experiment: Experiment, candidates: Mapping[str, float]) -> dict[str, float]:
    """Every arm's share: the candidates' as given, 0 where none is, and the baseline's the rest."""
    shares = {name: candidates.get(name, 0.0) for name in experiment.candidates}
    return {experiment.baseline: max(0.0, 1.0 - sum(shares.values())), **shares}
