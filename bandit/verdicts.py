"""What was concluded about one metric of one candidate, with the numbers behind it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """PASS and FAIL are proven; INCONCLUSIVE waits for data; ERROR means the measurement broke, and holds."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One metric of one candidate.

    Attributes:
        log_e_pass: Natural logarithm of the evidence that the metric holds.
        log_e_fail: Natural logarithm of the evidence that it does not.
        log_need_pass: What `log_e_pass` must reach.
        log_need_fail: What `log_e_fail` must reach.
        samples: Outcomes (or pairs) behind the numbers.
        estimate: The judged quantity for the candidate, in the metric's unit; None without data.
        low: Lower end of its confidence sequence.
        high: Upper end of its confidence sequence.
        baseline: The same quantity for the baseline, where there is one.
        limit: What the estimate is held against, as people wrote it.
        decided_s: When PASS or FAIL was reached first; it stays.
        reason: One sentence with both numbers.
    """

    metric: str
    variant: str
    outcome: Outcome
    log_e_pass: float = 0.0
    log_e_fail: float = 0.0
    log_need_pass: float = 0.0
    log_need_fail: float = 0.0
    samples: int = 0
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    limit: str = ""
    decided_s: float | None = None
    reason: str = ""
