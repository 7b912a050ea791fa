"""The smallest share of the traffic that an experiment's steps may give to an arm that is compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from anabranch.bandit.spec import BanditStep, Experiment, PromoteStep, SetWeightStep
from anabranch.bandit.weights import DEFAULT_LIMITS

_USUAL: Final = 0.02
"""Intervals take no larger one, so that documents with usual steps show what they always did."""


def least_weight(experiment: Experiment) -> float:
    """A lower bound of every propensity at which a candidate is compared with the baseline; in (0, 0.02].

    It follows from the document alone, so it is fixed before the data. An epoch in which one of two arms has no
    traffic compares nothing, and is left out.
    """
    return min((share for share in _shares(experiment) if share > 0.0), default=_USUAL)


def _shares(experiment: Experiment) -> Iterator[float]:
    yield _USUAL
    for step in experiment.steps:
        match step:
            case SetWeightStep(weight=weight):
                yield from (weight, _rounded(1.0 - weight * len(experiment.candidates)))
            case BanditStep(min_prob=min_prob):
                yield from (min_prob, DEFAULT_LIMITS.baseline_floor)
            case PromoteStep(weights=weights, hold_back=hold_back):
                for weight in weights:
                    given = min(weight, 1.0 - hold_back)
                    yield from (given, _rounded(1.0 - given))


def _rounded(share: float) -> float:
    """A remainder without the error of its subtraction: 1 - 3 * 0.33 is 0.01, and 1 - 10 * 0.1 nothing."""
    return round(share, 12)
