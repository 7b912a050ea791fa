"""The offline gate: may a variant be a candidate at all? The online test of non-inferiority, on held-out requests.

A variant that fails is proven worse than the reference by more than the margin. One that is not decided may be a
candidate: live traffic has more requests than any held-out set.
"""

from collections.abc import Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

from anabranch.bandit.betting import Claim
from anabranch.bandit.paired import BINARY_DIFFERENCES, PairedTest
from anabranch.bandit.sequences import mean_interval
from anabranch.bandit.verdicts import Outcome
from anabranch.variants.gate import GateMetric, GateVerdict

# Probability that a variant which is within the margin fails, and likewise that one beyond it passes.
ALPHA = 0.05
# Two points: 1,000 held-out requests decide it for a variant that changes 3 % of the answers.
ACCURACY_MARGIN = 0.02
# Without labels a changed answer may be a better one, so more of them are tolerated.
AGREEMENT_MARGIN = 0.05
# Stakes are set from what came before: a block of requests at a time.
_BLOCK = 50


def judge_accuracy(
    reference: NDArray[np.int64],
    found: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    margin: float = ACCURACY_MARGIN,
) -> GateVerdict:
    """Whether the variant is right as often as the reference, within the margin.

    Args:
        reference: The reference's class of every held-out request.
        found: The variant's.
        labels: The true one.
        margin: Tolerated loss of accuracy, in (0, 1).
    """
    differences = (found == labels).astype(np.int64) - (reference == labels).astype(np.int64)
    return _judge(differences, GateMetric.ACCURACY, margin)


def judge_agreement(
    reference: NDArray[np.int64], found: NDArray[np.int64], *, margin: float = AGREEMENT_MARGIN
) -> GateVerdict:
    """Whether the variant answers as the reference does, but for a share of the requests.

    Args:
        reference: The reference's class of every held-out request.
        found: The variant's.
        margin: Tolerated share of changed answers, in (0, 1).
    """
    return _judge(-(found != reference).astype(np.int64), GateMetric.AGREEMENT, margin)


def _judge(differences: NDArray[np.int64], metric: GateMetric, margin: float) -> GateVerdict:
    passing = PairedTest(claim=Claim.NON_INFERIORITY, margin=margin)
    failing = PairedTest(claim=Claim.HARM, margin=margin)
    for_, against = passing.start(), failing.start()
    for start in range(0, len(differences), _BLOCK):
        block = _histogram(differences[start : start + _BLOCK])
        for_, against = passing.advance(for_, block), failing.advance(against, block)
    log_pass, log_fail, need = passing.log_e(for_), failing.log_e(against), log(1 / ALPHA)
    low, high = mean_interval(BINARY_DIFFERENCES, _histogram(differences), alpha=ALPHA)
    outcome = Outcome.INCONCLUSIVE
    if log_fail >= need:
        outcome = Outcome.FAIL
    elif log_pass >= need:
        outcome = Outcome.PASS
    estimate = float(differences.mean()) if len(differences) else 0.0
    return GateVerdict(
        outcome=outcome,
        metric=metric,
        margin=margin,
        requests=len(differences),
        estimate=estimate,
        low=low,
        high=high,
        log_e_pass=log_pass,
        log_e_fail=log_fail,
        log_need=need,
        reason=(
            f"{metric} {estimate * 100:+.2f} points [{low * 100:+.2f}, {high * 100:+.2f}] against the reference on "
            f"{len(differences)} held-out requests, at most {margin * 100:g} lost are allowed"
        ),
    )


def _histogram(differences: Sequence[int] | NDArray[np.int64]) -> dict[int, int]:
    """Counts by the bins of the scale: 0, 1 and 2 are -1, 0 and +1."""
    bins, counts = np.unique(np.asarray(differences) + 1, return_counts=True)
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))
