"""What the allocation remembers: the outcomes of the last one to two memories, so that old times cannot hold it back.

Evidence never forgets, since a test that did would not keep its error. Where traffic goes next may, and must: an arm
that was bad last week deserves another look today.

Source:
    Trovò, Paladino, Restelli, Gatti: Sliding-window Thompson sampling (JAIR 2020); here a window of two generations,
    so that the state stays as small as two histograms and counts stay whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anabranch.bandit.evidence import Evidence, add_histograms
from anabranch.bandit.fold import add_totals
from anabranch.bandit.scales import Histogram
from anabranch.bandit.spec import Experiment
from anabranch.bandit.state import ExperimentState, Recent, Totals


def remember(
    experiment: Experiment, state: ExperimentState, evidence: Evidence, now: float
) -> ExperimentState:
    """The state with the evidence added to what an allocation looks at; unchanged without a bandit step.

    A tick without evidence changes nothing, so that the state follows from the evidence and the times it came at.
    """
    step = experiment.bandit
    if step is None or evidence.is_empty:
        return state
    recent = state.recent or Recent(begun_s=state.started_s)
    if now - recent.begun_s >= step.memory_s:
        recent = Recent(begun_s=now, older=recent.younger)
    younger = {
        arm: add_totals(experiment, recent.younger.get(arm, Totals()), arm, evidence)
        for arm in experiment.arms
    }
    return replace(state, recent=replace(recent, younger=younger))


def recent_totals(state: ExperimentState, arm: str) -> Totals:
    """An arm's outcomes of both generations; all of them where nothing is forgotten."""
    if state.recent is None:
        return state.totals.get(arm, Totals())
    younger, older = state.recent.younger.get(arm, Totals()), state.recent.older.get(arm)
    if older is None:
        return younger
    return Totals(
        requests=older.requests + younger.requests,
        units=older.units + younger.units,
        masked=older.masked + younger.masked,
        pairs=older.pairs + younger.pairs,
        pairs_failed=older.pairs_failed + younger.pairs_failed,
        metrics=_joined(older.metrics, younger.metrics),
        split=_joined(older.split, younger.split),
        paired=_joined(older.paired, younger.paired),
    )


def _joined(older: Mapping[str, Histogram], younger: Mapping[str, Histogram]) -> dict[str, Histogram]:
    return {
        source: add_histograms([older.get(source, {}), younger.get(source, {})])
        for source in sorted({*older, *younger})
    }
