"""What the offline gate found of a variant: whether it may be a candidate; `judging` says how it is found."""

from dataclasses import dataclass
from enum import StrEnum

from anabranch.bandit.verdicts import Outcome


class GateMetric(StrEnum):
    """What the gate compares."""

    ACCURACY = "accuracy"
    AGREEMENT = "agreement"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What the gate found.

    Args:
        outcome: PASS and FAIL are proven; INCONCLUSIVE is neither.
        metric: Accuracy where labels are known, else agreement with the reference.
        margin: Tolerated loss.
        requests: Held-out requests that were compared, pair by pair.
        estimate: Mean gain over the reference, negative for a loss.
        low: Lower end of the estimate's confidence sequence.
        high: Upper end.
        log_e_pass: Natural logarithm of the evidence for a loss below the margin.
        log_e_fail: The same for a loss above it.
        log_need: What either must reach.
        reason: One sentence with both numbers.
    """

    outcome: Outcome
    metric: GateMetric
    margin: float
    requests: int
    estimate: float
    low: float
    high: float
    log_e_pass: float
    log_e_fail: float
    log_need: float
    reason: str
