"""A candidate and the baseline through the real fold and judge, tick by tick: what the whole engine says of a world."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from anabranch.bandit.evidence import Cell, Evidence, PairCell
from anabranch.bandit.fold import fold, test_key
from anabranch.bandit.judge import judge
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.scales import Histogram
from anabranch.bandit.spec import Direction, Experiment, Metric, PauseStep, Role, Statistic
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.verdicts import Outcome

BASELINE, CANDIDATE = "base", "candidate"


def latency_objective(statistic: Statistic = Statistic.P95) -> Metric:
    """A quantile of the latency, lower is better."""
    return Metric(
        name="latency",
        source="latency_ms",
        role=Role.OBJECTIVE,
        statistic=statistic,
        direction=Direction.MIN,
    )


def two_arm_experiment(*metrics: Metric) -> Experiment:
    """One candidate against the baseline."""
    return Experiment(
        name="validation",
        model="m",
        baseline=BASELINE,
        candidates=(CANDIDATE,),
        metrics=metrics,
        steps=(PauseStep(duration_s=None),),
    )


def split_evidence(
    number: int,
    weights: Mapping[str, float],
    outcomes: Mapping[str, Mapping[str, Histogram]],
    *,
    epoch: int = 0,
    pairs: Iterable[PairCell] = (),
) -> Evidence:
    """One tick's evidence of one epoch: histograms by arm and metric source."""
    cells = tuple(
        Cell(epoch=epoch, variant=arm, units=size, requests=size, metrics=metrics)
        for arm, metrics in outcomes.items()
        if (size := max((sum(histogram.values()) for histogram in metrics.values()), default=0))
    )
    return Evidence(
        experiment="validation",
        first=number,
        last=number,
        cells=cells,
        pairs=tuple(pairs),
        weights={epoch: weights},
    )


def running(experiment: Experiment) -> ExperimentState:
    """A state in which all candidates take part."""
    return ExperimentState(phase=Phase.PROGRESSING, live=experiment.candidates)


def verdicts_of(experiment: Experiment, evidence: Iterable[Evidence]) -> dict[str, Outcome]:
    """By `metric/variant` the last verdicts after all ticks; decided ones are latched as in production."""
    state = running(experiment)
    for number, part in enumerate(evidence):
        state = judge(experiment, fold(experiment, state, part), float(number))
    return {key: verdict.outcome for key, verdict in state.verdicts.items()}


def decided(experiment: Experiment, evidence: Iterable[Evidence], metric: str = "latency") -> Outcome:
    """The verdict on one metric of the candidate; stops reading at the first decision."""
    state = running(experiment)
    key = test_key(metric, CANDIDATE)
    for number, part in enumerate(evidence):
        state = judge(experiment, fold(experiment, state, part), float(number))
        if state.verdicts[key].outcome in (Outcome.PASS, Outcome.FAIL):
            return state.verdicts[key].outcome
    return Outcome.INCONCLUSIVE
