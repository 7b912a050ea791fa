"""An experiment in a few lines, and a hand that takes its ticks one by one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from anabranch.bandit.decision import Action, Change, Command, Verb
from anabranch.bandit.evidence import Cell, Evidence, PairCell
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import Direction, Experiment, Metric, Role, Statistic, Step
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.step import Tick, tick

LATENCY = Metric(
    name="latency",
    source="latency_ms",
    role=Role.OBJECTIVE,
    statistic=Statistic.P50,
    direction=Direction.MIN,
)
FIDELITY = Metric(name="fidelity", source="mirror.top1_agreement", role=Role.GUARDRAIL, minimum=0.8)
ERRORS = Metric(name="errors", source="error", role=Role.GUARDRAIL, direction=Direction.MIN, maximum=0.2)
ACCURACY = Metric(name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, non_inferiority_margin=0.1)
BY_NAME = {metric.name: metric for metric in (LATENCY, FIDELITY, ERRORS, ACCURACY)}


@dataclass(slots=True)
class Hand:
    """Takes ticks of one experiment; the clock is its own."""

    experiment: Experiment
    now: float = 1000.0
    state: ExperimentState = field(default_factory=ExperimentState)
    asked: int = 0
    deltas: int = 0

    def tick(
        self, *verbs: Verb | tuple[Verb, str], after: float = 1.0, evidence: Evidence | None = None
    ) -> Tick:
        """One tick, with what people ask; everything that must always hold is checked."""
        self.now += after
        commands = []
        for verb in verbs:
            self.asked += 1
            name, argument = verb if isinstance(verb, tuple) else (verb, "")
            commands.append(Command(id=self.asked, verb=name, actor="ada", argument=argument))
        before = self.state
        result = tick(self.experiment, before, evidence or Evidence(experiment="exp"), commands, self.now)
        self.state = result.state
        self._check(before, result, commands)
        return result

    def see(
        self,
        *,
        requests: Mapping[str, int] | None = None,
        failing: Sequence[str] = (),
        differing: Sequence[str] = (),
        wrong: Sequence[str] = (),
        slow: Sequence[str] = (),
        pairs: int = 0,
        verbs: Sequence[Verb] = (),
        after: float = 1.0,
    ) -> Tick:
        """A tick with outcomes; the arms named behave badly in one respect, all others are fine."""
        self.deltas += 1
        cells = []
        for arm, n in (requests or {}).items():
            bad = n if arm in failing else 0
            poor = n if arm in wrong else n // 10
            center = 900 if arm == self.experiment.baseline else 1200 if arm in slow else 700
            cells.append(
                Cell(
                    epoch=self.state.epoch,
                    variant=arm,
                    units=n,
                    requests=n,
                    masked=bad,
                    metrics={
                        "latency_ms": {center - 3: n // 3, center: n - 2 * (n // 3), center + 3: n // 3},
                        "error": {0: n - bad, 1: bad},
                        "feedback.correct": {0: poor, 1: n - poor},
                    },
                )
            )
        compared = [
            PairCell(
                epoch=self.state.epoch,
                variant=arm,
                pairs=pairs,
                metrics={
                    "mirror.top1_agreement": {0: pairs, 1: 0} if arm in differing else {0: 0, 1: pairs},
                    "feedback.correct": {0: pairs, 1: 0, 2: 0} if arm in wrong else {0: 0, 1: pairs, 2: 0},
                },
            )
            for arm in self.state.live
            if pairs
        ]
        evidence = Evidence(
            experiment="exp",
            first=self.deltas,
            last=self.deltas,
            cells=tuple(cells),
            pairs=tuple(compared),
            weights={self.state.epoch: dict(self.state.weights)},
        )
        return self.tick(*verbs, after=after, evidence=evidence)

    def traffic(self, n: int = 500) -> dict[str, int]:
        """Requests by arm as the weights say."""
        return {arm: round(n * share) for arm, share in self.state.weights.items() if share > 0}

    def _check(self, before: ExperimentState, result: Tick, commands: Sequence[Command]) -> None:
        state, decision = result.state, result.decision
        if state.weights:
            assert abs(sum(state.weights.values()) - 1.0) < 1e-9
            assert all(0.0 <= share <= 1.0 for share in state.weights.values())
        if dict(state.weights) != dict(before.weights) and before.weights:
            assert state.epoch == before.epoch + 1 or any(c.verb is Verb.RETRY for c in commands)
        if self.experiment.observes:
            assert state.phase not in (Phase.PROMOTING, Phase.PROMOTED, Phase.ROLLED_BACK)
        for gone in set() if self.experiment.observes else set(self.experiment.candidates) - set(state.live):
            assert state.phase is Phase.PROMOTED or state.weights.get(gone, 0.0) == 0.0
        if state.phase not in (Phase.PROGRESSING, Phase.PAUSED):
            assert state.mirror == 0.0
        if commands:
            assert decision is not None
            assert decision.handled == tuple(command.id for command in commands)
        if decision is not None:
            assert decision.number == before.decisions + 1 == state.decisions
            assert (decision.phase, decision.step, decision.weights) == (
                state.phase,
                state.step,
                state.weights,
            )
        else:
            assert state.decisions == before.decisions


@pytest.fixture
def begin() -> Callable[..., Hand]:
    """Begins an experiment with these steps, metrics by name, and candidates."""

    def make(
        *steps: Step, metrics: str = "latency fidelity errors", candidates: str = "a b", started: bool = True
    ) -> Hand:
        hand = Hand(
            experiment=Experiment(
                name="exp",
                model="m",
                baseline="base",
                candidates=tuple(candidates.split()),
                metrics=tuple(BY_NAME[name] for name in metrics.split()),
                steps=steps,
            )
        )
        if started:
            hand.tick()
        return hand

    return make


@pytest.fixture(scope="session")
def reasons() -> Callable[..., list[str]]:
    """The reasons of a tick's actions of one kind."""

    def of(result: Tick, change: Change) -> list[str]:
        actions: tuple[Action, ...] = result.decision.actions if result.decision else ()
        return [action.reason for action in actions if action.change is change]

    return of
