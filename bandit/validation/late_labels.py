"""V15 and B7: labels that come later, or less often, in one arm: what closed cohorts keep valid.

Errors are seen within an hour and successes within six, on a ramp, so that the candidate is younger than the baseline.
The engine's rule lets a request into a test when its label window closes, with an unknown label set against the claim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from anabranch.bandit.betting import Claim, ContrastTest, EpochCell
from anabranch.bandit.labels import Cohort, closed, closed_segment
from anabranch.bandit.scales import BINARY
from anabranch.bandit.validation.checks import Cell, Check, Sense, Trial, bias_check, rate_check

ALPHA = 0.05
HOURS = 150
REQUESTS = 200
WINDOW_H = 36
RAMP = (0.05, 0.25, 0.50)
ACCURACY = 0.95
ERROR_DELAY_H, SUCCESS_DELAY_H = 1.0, 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One hour's requests of one arm: which came right, and the hour in which each label came (never: far away)."""

    hour: int
    epoch: int
    variant: str
    right: np.ndarray[tuple[int], np.dtype[np.bool_]]
    seen_h: np.ndarray[tuple[int], np.dtype[np.float64]]

    def labels(self, first: float, last: float) -> dict[int, int]:
        """The labels that came from one hour, inclusive, to another, exclusive."""
        came = (self.seen_h >= first) & (self.seen_h < last)
        return {0: int((came & ~self.right).sum()), 1: int((came & self.right).sum())}


def _epoch(hour: int) -> int:
    return hour * len(RAMP) // HOURS


def _stretches(
    accuracy: Mapping[str, float], kept: Mapping[str, tuple[float, float]], rng: np.random.Generator
) -> list[Stretch]:
    """A run: `kept` is the probability by arm that an error's, and a success's, label comes at all."""
    found = []
    for hour in range(HOURS):
        epoch = _epoch(hour)
        in_v = int(rng.binomial(REQUESTS, RAMP[epoch]))
        for variant, size in (("candidate", in_v), ("base", REQUESTS - in_v)):
            right = rng.random(size) < accuracy[variant]
            delay = np.where(right, SUCCESS_DELAY_H, ERROR_DELAY_H) * rng.exponential(1.0, size)
            error_kept, success_kept = kept[variant]
            lost = rng.random(size) >= np.where(right, success_kept, error_kept)
            found.append(
                Stretch(
                    hour=hour,
                    epoch=epoch,
                    variant=variant,
                    right=right,
                    seen_h=hour + np.where(lost, np.inf, delay),
                )
            )
    return found


def _cohorts(stretches: list[Stretch]) -> list[Cohort]:
    return [
        Cohort(
            epoch=one.epoch,
            variant=one.variant,
            entered_s=float(one.hour),
            requests=one.right.size,
            labels=one.labels(0.0, one.hour + WINDOW_H),
        )
        for one in stretches
    ]


def _weights() -> dict[int, dict[str, float]]:
    return {epoch: {"candidate": pi, "base": 1.0 - pi} for epoch, pi in enumerate(RAMP)}


def _closed_peak(test: ContrastTest, cohorts: list[Cohort]) -> float:
    """The highest log evidence while cohorts close hour by hour."""
    state, top = test.start(), -math.inf
    ready = closed(cohorts, now=float(HOURS), window_s=float(WINDOW_H))
    for hour in range(HOURS - WINDOW_H + 1):
        new = [cohort for cohort in ready if cohort.entered_s == hour]
        segment = closed_segment(
            BINARY, new, _weights(), variant="candidate", baseline="base", claim=test.claim
        )
        state = test.advance(state, segment)
        top = max(top, test.log_e(state))
    return top


def _arrived_peak(test: ContrastTest, stretches: list[Stretch]) -> float:
    """The same with every label taken when it comes, under its own epoch's propensities."""
    state, top = test.start(), -math.inf
    for hour in range(HOURS):
        cells = []
        for epoch, pi in enumerate(RAMP):
            counts = {
                variant: _sum(
                    one.labels(hour, hour + 1.0)
                    for one in stretches
                    if one.epoch == epoch and one.variant == variant and hour - 60 < one.hour <= hour
                )
                for variant in ("candidate", "base")
            }
            if sum(counts["candidate"].values()) + sum(counts["base"].values()):
                cells.append(
                    EpochCell(pi_v=pi, pi_c=1.0 - pi, counts_v=counts["candidate"], counts_c=counts["base"])
                )
        state = test.advance(state, cells)
        top = max(top, test.log_e(state))
    return top


def _sum(parts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    total = {0: 0, 1: 0}
    for part in parts:
        for index, count in part.items():
            total[index] += count
    return total


def _difference(stretches: list[Stretch], *, until_h: float, window_h: float) -> float:
    """Mean of the labels so far, candidate minus baseline, of requests old enough, within their window."""
    means = {}
    for variant in ("candidate", "base"):
        total = _sum(
            one.labels(0.0, min(until_h, one.hour + window_h) if window_h else until_h)
            for one in stretches
            if one.variant == variant and one.hour + window_h <= until_h
        )
        means[variant] = total[1] / max(sum(total.values()), 1)
    return means["candidate"] - means["base"]


def _late(trial: Trial) -> tuple[Check, ...]:
    equal = {"candidate": ACCURACY, "base": ACCURACY}
    all_kept = {"candidate": (1.0, 1.0), "base": (1.0, 1.0)}
    need = math.log(2.0 / ALPHA)
    tests = [ContrastTest(claim=claim) for claim in (Claim.SUPERIORITY, Claim.HARM)]
    wrong, naive_wrong = 0, 0
    errors, naive_errors = np.zeros(trial.runs), np.zeros(trial.runs)
    for run in range(trial.runs):
        stretches = _stretches(equal, all_kept, trial.rng)
        cohorts = _cohorts(stretches)
        wrong += any(_closed_peak(test, cohorts) >= need for test in tests)
        if run < 40:
            naive_wrong += any(_arrived_peak(test, stretches) >= need for test in tests)
        # Shortly after the ramp's last step the candidate is youngest.
        at = HOURS * 2 / 3 + 3.0
        errors[run] = _difference(stretches, until_h=float(HOURS), window_h=float(WINDOW_H))
        naive_errors[run] = _difference(stretches, until_h=at, window_h=0.0)
    rivals = {"labelled so far": naive_wrong / min(trial.runs, 40)}
    note = f"errors labelled after {ERROR_DELAY_H:g} h, successes after {SUCCESS_DELAY_H:g} h, window {WINDOW_H} h, ramp"
    return (
        rate_check("V15", "false decision, late labels", wrong, trial.runs, ALPHA, rivals=rivals, note=note),
        bias_check(
            "V15",
            "size of the bias of closed cohorts, late labels",
            errors,
            0.002,
            rivals={"labelled so far": abs(float(naive_errors.mean()))},
            note="the rival is read three hours after the ramp's last step",
        ),
    )


def _selected(trial: Trial) -> tuple[Check, ...]:
    """A candidate at the margin of which every second error is never labelled."""
    margin = 0.03
    accuracy = {"candidate": ACCURACY - margin, "base": ACCURACY}
    kept = {"candidate": (0.5, 1.0), "base": (1.0, 1.0)}
    test = ContrastTest(claim=Claim.NON_INFERIORITY, margin=margin)
    need = math.log(1.0 / ALPHA)
    wrong, naive_wrong = 0, 0
    for run in range(trial.runs):
        stretches = _stretches(accuracy, kept, trial.rng)
        wrong += _closed_peak(test, _cohorts(stretches)) >= need
        if run < 40:
            naive_wrong += _arrived_peak(test, stretches) >= need
    return (
        rate_check(
            "B7",
            "false promotion, half of the candidate's errors are never labelled",
            wrong,
            trial.runs,
            ALPHA,
            rivals={"labelled so far": naive_wrong / min(trial.runs, 40)},
            note="expected: at most .05",
        ),
    )


def _lost(trial: Trial) -> tuple[Check, ...]:
    """What it costs: an equal candidate, one label in a hundred lost in both arms, at a margin of five points."""
    accuracy = {"candidate": ACCURACY, "base": ACCURACY}
    kept = {"candidate": (0.99, 0.99), "base": (0.99, 0.99)}
    test = ContrastTest(claim=Claim.NON_INFERIORITY, margin=0.05)
    need = math.log(1.0 / ALPHA)
    found = sum(
        _closed_peak(test, _cohorts(_stretches(accuracy, kept, trial.rng))) >= need for _ in range(trial.runs)
    )
    name = "an equal candidate is promoted, one label in a hundred lost"
    return (
        rate_check("B7", name, found, trial.runs, 0.95, sense=Sense.AT_LEAST, note="expected: at least .95"),
    )


CELLS = (
    Cell(row="V15", name="late", run=_late, long=300, short=20),
    Cell(row="B7", name="selected", run=_selected, long=300, short=20),
    Cell(row="B7", name="lost", run=_lost, long=100, short=10),
)
