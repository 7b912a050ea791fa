"""Checks: what a simulation measured, the bound that is held against the target, and whether it passes.

A frequency must not be proven to miss its target: its one-sided 99 % Clopper-Pearson bound is compared. A mean or a
median is treated alike, with the one-sided 99 % bound of its own sampling error. A number without sampling error is
compared itself. The value is always shown beside the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
from scipy import special, stats

from anabranch.bandit.scales import FloatArray

CONFIDENCE = 0.99


class Sense(StrEnum):
    """On which side of the target a value must lie."""

    AT_MOST = "at most"
    AT_LEAST = "at least"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One measured promise.

    Attributes:
        row: Number of the promise, "V1" to "V20" or "B1" to "B12".
        name: What was measured, in which world.
        value: As measured; None when it was not run.
        bound: The end of the value's one-sided 99 % interval that is compared with the target.
        target: What is promised.
        sense: On which side of the target the value must lie.
        ok: Whether the bound keeps the target; None when it was not run.
        replications: Simulated runs behind the value.
        rivals: The same figure for other rules in the same runs, by name.
        note: What a reader must know; the reason when it was not run.
    """

    row: str
    name: str
    value: float | None
    bound: float | None
    target: float
    sense: Sense = Sense.AT_MOST
    ok: bool | None
    replications: int = 0
    rivals: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether the value itself lies on the wrong side of the target, chance or not."""
        if self.value is None:
            return False
        return self.value > self.target if self.sense is Sense.AT_MOST else self.value < self.target


def rate_check(
    row: str,
    name: str,
    events: int,
    runs: int,
    target: float,
    *,
    sense: Sense = Sense.AT_MOST,
    rivals: Mapping[str, float] | None = None,
    note: str = "",
) -> Check:
    """A frequency against a probability, by the one-sided Clopper-Pearson bound that favours the target."""
    bound = _lower_rate(events, runs) if sense is Sense.AT_MOST else 1.0 - _lower_rate(runs - events, runs)
    return _judged(row, name, events / runs, bound, target, sense, runs, rivals, note)


def mean_check(
    row: str,
    name: str,
    values: FloatArray,
    target: float,
    *,
    sense: Sense = Sense.AT_MOST,
    rivals: Mapping[str, float] | None = None,
    note: str = "",
) -> Check:
    """A mean against a number, by the one-sided normal bound that favours the target; infinite values stay infinite."""
    mean = float(values.mean())
    if not math.isfinite(mean):
        endless = f"{int(np.isinf(values).sum())} of {values.size} runs had no end"
        note = f"{endless}; {note}" if note else endless
        return _judged(row, name, mean, mean, target, sense, values.size, rivals, note)
    reach = float(special.ndtri(CONFIDENCE)) * float(values.std(ddof=1)) / math.sqrt(values.size)
    bound = mean - reach if sense is Sense.AT_MOST else mean + reach
    return _judged(row, name, mean, bound, target, sense, values.size, rivals, note)


def bias_check(
    row: str,
    name: str,
    errors: FloatArray,
    target: float,
    *,
    rivals: Mapping[str, float] | None = None,
    note: str = "",
) -> Check:
    """The size of a mean error against a number; the bound is the part that chance does not explain."""
    bias, error = float(errors.mean()), float(errors.std(ddof=1)) / math.sqrt(errors.size)
    bound = max(abs(bias) - float(special.ndtri(CONFIDENCE)) * error, 0.0)
    text = f"mean error {bias:+.5f}, standard error {error:.5f}" + (f"; {note}" if note else "")
    return _judged(row, name, abs(bias), bound, target, Sense.AT_MOST, errors.size, rivals, text)


def median_check(
    row: str,
    name: str,
    values: FloatArray,
    target: float,
    *,
    rivals: Mapping[str, float] | None = None,
    note: str = "",
) -> Check:
    """A median that must be at most a number, by the order statistic that bounds it from below at 99 %."""
    ordered = np.sort(values)
    rank = int(stats.binom.ppf(1.0 - CONFIDENCE, values.size, 0.5))
    bound = float(ordered[max(rank - 1, 0)])
    value = float(np.median(ordered))
    return _judged(row, name, value, bound, target, Sense.AT_MOST, values.size, rivals, note)


def number_check(
    row: str,
    name: str,
    value: float,
    target: float,
    *,
    sense: Sense = Sense.AT_MOST,
    runs: int = 1,
    rivals: Mapping[str, float] | None = None,
    note: str = "",
) -> Check:
    """A number without sampling error against a target."""
    return _judged(row, name, value, value, target, sense, runs, rivals, note)


def not_run(row: str, name: str, target: float, reason: str, *, sense: Sense = Sense.AT_MOST) -> Check:
    """A promise that could not be looked at, and why; never a pass."""
    return Check(row=row, name=name, value=None, bound=None, target=target, sense=sense, ok=None, note=reason)


def shares(hits: Mapping[str, np.ndarray[Any, np.dtype[np.bool_]]]) -> dict[str, float]:
    """By rival, the share of runs in which it did something."""
    return {name: float(array.mean()) for name, array in hits.items()}


def _judged(
    row: str,
    name: str,
    value: float,
    bound: float,
    target: float,
    sense: Sense,
    runs: int,
    rivals: Mapping[str, float] | None,
    note: str,
) -> Check:
    ok = bound <= target if sense is Sense.AT_MOST else bound >= target
    return Check(
        row=row,
        name=name,
        value=value,
        bound=bound,
        target=target,
        sense=sense,
        ok=bool(ok),
        replications=runs,
        rivals=dict(rivals or {}),
        note=note,
    )


def _lower_rate(events: int, runs: int) -> float:
    return 0.0 if events == 0 else float(stats.beta.ppf(1.0 - CONFIDENCE, events, runs - events + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a cell is run with.

    Attributes:
        rng: The only source of randomness.
        runs: How many replications.
        clock: Seconds from a steady clock, for the rows that measure speed.
        reference: Reference values of the golden row; None where they are not installed.
    """

    rng: np.random.Generator
    runs: int
    clock: Callable[[], float]
    reference: Mapping[str, Any] | None = None


Experimenter: TypeAlias = Callable[[Trial], tuple[Check, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One world of one row: the smallest part of the suite that is run, and resumed, by itself.

    Attributes:
        row: Number of the promise.
        name: The world, unique in its row.
        run: Simulates it.
        long: Replications of the long form.
        short: Replications of the short form; 0 leaves the cell out.
    """

    row: str
    name: str
    run: Experimenter
    long: int
    short: int

    @property
    def key(self) -> str:
        """The cell's identity: of its seed, and in files of results."""
        return f"{self.row}/{self.name}"


def named(checks: tuple[Check, ...], prefix: str) -> tuple[Check, ...]:
    """The checks with a world before their names."""
    return tuple(replace(check, name=f"{prefix}: {check.name}") for check in checks)
