"""Does an arm stand still? Evidence that its outcomes are not draws from one fixed distribution.

Outcomes are sorted into a few classes, with borders taken once from the first outcomes. Two forecasters bet on the next
segment's classes: one believes in all of the past, the other in the recent past only, and a mixture that may change
its mind follows the better one. Their joint likelihood is compared with that of the best fixed distribution in
hindsight, so that no fixed distribution, whatever it is, can often make the ratio large.

Count-based tests assume what this test doubts: they are shown as sound only while it is quiet.

Source:
    Wasserman, Ramdas, Balakrishnan: Universal inference (PNAS 2020), section 8, for the ratio; Herbster, Warmuth:
    Tracking the best expert (Machine Learning 1998) for the mixture.
"""

import bisect
import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from anabranch.bandit.scales import FloatArray, Histogram

QUIET_LOG_E: Final = math.log(1 / 0.01)
FIRST_OUTCOMES: Final = 200
"""Outcomes that the borders are taken from; they are not tested."""

_LEVELS = (0.5, 0.9, 0.99)
_MEMORY = 2_000.0
_SWITCH = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftState:
    """Where the test of one arm's outcomes stands.

    Attributes:
        first: Outcomes from before the borders, as sorted (bin, count) pairs; empty afterwards.
        borders: Last bin of every class but the highest; None before there were enough outcomes.
        counts: Outcomes by class.
        recent: The same, with old ones discounted.
        log_forecast: Log likelihood of the two forecasters' segments, weighed by how far each is believed.
    """

    first: tuple[tuple[int, int], ...] = ()
    borders: tuple[int, ...] | None = None
    counts: tuple[int, ...] = ()
    recent: tuple[float, ...] = ()
    log_forecast: tuple[float, float] = (math.log(0.5), math.log(0.5))


def advance(state: DriftState, segment: Histogram) -> DriftState:
    """The state after one more segment of outcomes; their order inside it does not matter."""
    if state.borders is None:
        return _begun(state, segment)
    counts = _classes(state.borders, segment)
    total = float(counts.sum())
    if total == 0.0:
        return state
    seen, recent = np.asarray(state.counts, dtype=np.float64), np.asarray(state.recent)
    forecasts = np.array([_log_likelihood(seen + 0.5, counts), _log_likelihood(recent + 0.5, counts)])
    one, other = (np.asarray(state.log_forecast) + forecasts).tolist()
    stay, change = math.log(1.0 - _SWITCH), math.log(_SWITCH)
    recent = recent + counts
    return DriftState(
        borders=state.borders,
        counts=tuple((seen + counts).astype(np.int64).tolist()),
        recent=tuple((recent * min(1.0, _MEMORY / float(recent.sum()))).tolist()),
        log_forecast=(
            float(np.logaddexp(one + stay, other + change)),
            float(np.logaddexp(other + stay, one + change)),
        ),
    )


def log_e(state: DriftState) -> float:
    """Log evidence that the outcomes are not draws from one fixed distribution; above QUIET_LOG_E the arm moves."""
    total = sum(state.counts)
    if not total:
        return 0.0
    best = sum(count * math.log(count / total) for count in state.counts if count)
    return float(np.logaddexp(*state.log_forecast)) - best


def is_quiet(state: DriftState) -> bool:
    """Whether an arm was watched for a while and was not found to move."""
    return sum(state.counts) >= FIRST_OUTCOMES and log_e(state) < QUIET_LOG_E


def _begun(state: DriftState, segment: Histogram) -> DriftState:
    first = dict(state.first)
    for index, count in segment.items():
        if count:
            first[index] = first.get(index, 0) + count
    if sum(first.values()) < FIRST_OUTCOMES:
        return DriftState(first=tuple(sorted(first.items())))
    indices = sorted(first)
    shares = np.cumsum([first[index] for index in indices]) / sum(first.values())
    at = [indices[int(np.searchsorted(shares, level))] for level in _LEVELS]
    if len(indices) == 1:
        # All alike so far, as when nothing has failed yet: what differs from them, either way, would be news.
        borders = [indices[0] - 1, indices[0]]
        return DriftState(borders=tuple(borders), counts=(0,) * 3, recent=(0.0,) * 3)
    # Where most outcomes are equal, as of a binary metric, the class below them is what may move.
    borders = sorted({index for index in at if index < indices[-1]} | {indices[0]})
    classes = len(borders) + 1
    return DriftState(borders=tuple(borders), counts=(0,) * classes, recent=(0.0,) * classes)


def _classes(borders: tuple[int, ...], segment: Histogram) -> FloatArray:
    counts = [0.0] * (len(borders) + 1)
    for index, count in segment.items():
        counts[bisect.bisect_left(borders, index)] += count
    return np.array(counts)


def _log_likelihood(prior: FloatArray, counts: FloatArray) -> float:
    """Log probability of a sequence with these counts, when the class shares have a Dirichlet distribution."""
    before, after = prior.tolist(), (prior + counts).tolist()
    shares = sum(math.lgamma(new) - math.lgamma(old) for old, new in zip(before, after, strict=True))
    return math.lgamma(sum(before)) - math.lgamma(sum(after)) + shares
