"""Where experiments stand, as samples: a pure function of what the store keeps.

The running ones and the last one of every model are told, so that the series are bounded by what is served, however
many experiments a store has seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import Experiment
from anabranch.bandit.srm import BLOCK_LOG_E, SrmTest
from anabranch.bandit.state import ExperimentState, Totals
from anabranch.bandit.verdicts import Outcome, Verdict
from anabranch.router.metrics.catalogue import EXPERIMENTS, Metric
from anabranch.router.metrics.samples import Sample
from anabranch.store.document import parse
from anabranch.store.port import StoredExperiment

_ENDED_OF_A_MODEL: Final = 1


def experiment_samples(kept: Iterable[StoredExperiment]) -> Iterator[Sample]:
    """The samples of the experiments that matter now."""
    for stored, experiment in _shown(kept):
        yield from _of_experiment(stored, experiment)
        for arm in experiment.arms:
            yield from _of_arm(stored, experiment, arm)
        for verdict in stored.state.verdicts.values():
            yield from _of_verdict(stored, experiment, verdict)


def _shown(kept: Iterable[StoredExperiment]) -> Iterator[tuple[StoredExperiment, Experiment]]:
    ended: dict[str, int] = {}
    for stored in sorted(kept, key=lambda stored: stored.applied_s, reverse=True):
        experiment = parse(stored.document)
        if stored.state.phase.is_over:
            ended[experiment.model] = ended.get(experiment.model, 0) + 1
            if ended[experiment.model] > _ENDED_OF_A_MODEL:
                continue
        yield stored, experiment


def _of_experiment(stored: StoredExperiment, experiment: Experiment) -> Iterator[Sample]:
    state, labels = stored.state, (stored.name, experiment.model)
    for phase in Phase:
        yield Sample(EXPERIMENTS.phase, (*labels, str(phase)), float(phase is state.phase))
    begun = state.phase is not Phase.PENDING
    values: list[tuple[Metric, float]] = [
        (EXPERIMENTS.step, min(state.step + 1, len(experiment.steps)) if begun else 0),
        (EXPERIMENTS.steps, len(experiment.steps)),
        (EXPERIMENTS.epoch, state.epoch),
        (EXPERIMENTS.decisions, state.decisions),
        (EXPERIMENTS.started, state.started_s),
        (EXPERIMENTS.mirror, state.mirror),
    ]
    if state.sample_ratio is not None:
        values += [
            (EXPERIMENTS.srm, SrmTest(arms=experiment.arms).log_e(state.sample_ratio)),
            (EXPERIMENTS.srm_needed, BLOCK_LOG_E),
        ]
    for metric, value in values:
        yield Sample(metric, labels, value)


def _of_arm(stored: StoredExperiment, experiment: Experiment, arm: str) -> Iterator[Sample]:
    state, labels = stored.state, (stored.name, experiment.model, arm)
    totals = state.totals.get(arm, Totals())
    yield Sample(EXPERIMENTS.weight, labels, state.weights.get(arm, 0.0))
    yield Sample(EXPERIMENTS.requests, labels, totals.requests)
    yield Sample(EXPERIMENTS.units, labels, totals.units)
    yield Sample(EXPERIMENTS.masked, labels, totals.masked)
    yield Sample(EXPERIMENTS.pairs, labels, totals.pairs)
    if arm != experiment.baseline:
        yield Sample(EXPERIMENTS.live, labels, float(_is_live(state, arm)))
        yield Sample(EXPERIMENTS.winner, labels, float(arm == state.winner))


def _is_live(state: ExperimentState, arm: str) -> bool:
    return all(removal.variant != arm for removal in state.removed)


def _of_verdict(stored: StoredExperiment, experiment: Experiment, verdict: Verdict) -> Iterator[Sample]:
    labels = (stored.name, experiment.model, verdict.variant, verdict.metric)
    for outcome in Outcome:
        yield Sample(EXPERIMENTS.verdict, (*labels, str(outcome)), float(outcome is verdict.outcome))
    for claim, value, need in (
        ("holds", verdict.log_e_pass, verdict.log_need_pass),
        ("fails", verdict.log_e_fail, verdict.log_need_fail),
    ):
        # A claim that nothing is needed for is not tested.
        if need > 0.0:
            yield Sample(EXPERIMENTS.log_evidence, (*labels, claim), value)
            yield Sample(EXPERIMENTS.log_evidence_needed, (*labels, claim), need)
    yield Sample(EXPERIMENTS.samples, labels, verdict.samples)
    for metric, estimate in (
        (EXPERIMENTS.estimate, verdict.estimate),
        (EXPERIMENTS.estimate_low, verdict.low),
        (EXPERIMENTS.estimate_high, verdict.high),
    ):
        if estimate is not None and not math.isnan(estimate):
            yield Sample(metric, labels, estimate)
