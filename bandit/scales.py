"""Scales: how the values of a metric become the bins of a histogram, with borders that every replica agrees on.

A histogram is a mapping from bin to count on one scale. Histograms of the same scale merge by addition, so that
the evidence of many replicas and epochs is the sum of their counts. All tests in this package read counts only.

Borders are exact: `bin_of` compares with stored floats and never rounds a logarithm, so that a value on a border
falls on the same side everywhere.
"""

import bisect
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Histogram: TypeAlias = Mapping[int, int]
FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryScale:
    """Failure and success: bin 0 is 0.0, bin 1 is 1.0."""

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return 2

    @property
    def low(self) -> float:
        """The smallest value."""
        return 0.0

    @property
    def high(self) -> float:
        """The largest value."""
        return 1.0

    def bin_of(self, value: float) -> int:
        """The bin of a value.

        Args:
            value: exactly 0 or 1 (booleans too).

        Raises:
            ValueError: for any other value.
        """
        if value == 0:
            return 0
        if value == 1:
            return 1
        raise ValueError(f"value {value!r} is not binary: give 0 or 1, or use a GridScale")

    def bins_of(self, values: npt.ArrayLike) -> IntArray:
        """The bins of many values, any shape."""
        array = np.asarray(values, dtype=np.float64)
        wrong = (array != 0) & (array != 1)
        if wrong.any():
            raise ValueError(
                f"value {float(array[wrong][0])!r} is not binary: give 0 or 1, or use a GridScale"
            )
        return array.astype(np.int64)

    def value_of(self, index: int) -> float:
        """The value that a bin stands for."""
        return float(_checked(index, self.bins))


@dataclass(frozen=True, slots=True, kw_only=True)
class GridScale:
    """A bounded metric, rounded to an even grid of values that includes both ends.

    Bin i stands for `low + i * step`, `step = (high - low) / (bins - 1)`. A value goes to the nearest grid value,
    one half-way between two goes up: bin i is [value - step/2, value + step/2). The mean of the bins differs from
    the mean of the values by half a step at most; choose `bins` so that half a step is small against the margin.

    Args:
        low: smallest possible value.
        high: largest possible value, above `low`.
        bins: number of grid values, at least 2.
    """

    low: float
    high: float
    bins: int

    def __post_init__(self) -> None:
        """Refuse an empty range and a grid without two ends."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"range [{self.low}, {self.high}] must be finite and not empty: fix low and high"
            )
        if self.bins < 2:
            raise ValueError(f"{self.bins} bins given, at least 2 are needed: both ends are bins")

    def bin_of(self, value: float) -> int:
        """The bin of a value.

        Args:
            value: in [low, high].

        Raises:
            ValueError: when the value is outside: clipping would hide a broken metric.
        """
        if not self.low <= value <= self.high:
            raise ValueError(
                f"value {value!r} is outside [{self.low}, {self.high}]: widen the scale or fix the metric"
            )
        return min(
            math.floor((value - self.low) / (self.high - self.low) * (self.bins - 1) + 0.5), self.bins - 1
        )

    def bins_of(self, values: npt.ArrayLike) -> IntArray:
        """The bins of many values in [low, high], any shape."""
        array = np.asarray(values, dtype=np.float64)
        wrong = ~((array >= self.low) & (array <= self.high))
        if wrong.any():
            raise ValueError(
                f"value {float(array[wrong][0])!r} is outside [{self.low}, {self.high}]: "
                "widen the scale or fix the metric"
            )
        position = np.floor((array - self.low) / (self.high - self.low) * (self.bins - 1) + 0.5)
        return np.minimum(position.astype(np.int64), self.bins - 1)

    def value_of(self, index: int) -> float:
        """The value that a bin stands for."""
        return self.low + (self.high - self.low) * (_checked(index, self.bins) / (self.bins - 1))


@functools.cache
def log_borders(gamma: float, low: float, high: float) -> tuple[float, ...]:
    """Borders low, low*gamma, low*gamma^2, ... up to the first at or above high.

    By repeated multiplication, which IEEE 754 defines to the last bit: every replica has the same borders whatever
    its libm's `pow` does. The relative error against the true power stays below 1e-12.
    """
    borders = [low]
    while borders[-1] < high:
        borders.append(borders[-1] * gamma)
    return tuple(borders)


@functools.cache
def _log_border_array(gamma: float, low: float, high: float) -> FloatArray:
    array = np.asarray(log_borders(gamma, low, high))
    array.flags.writeable = False
    return array


@dataclass(frozen=True, slots=True, kw_only=True)
class LogScale:
    """A positive metric with a long tail (latency, in ms) in buckets of constant relative width.

    Bin 0 is the underflow [0, low]; bin k is (low*gamma^(k-1), low*gamma^k], closed above; the last bin is
    everything above the last border, up to and including +inf. A request that timed out is +inf: it is counted,
    never dropped.

    Args:
        gamma: ratio of two neighbouring borders, above 1; the relative width of a bucket is gamma - 1.
        low: upper border of the underflow bin, above 0.
        high: the last finite border is the first power at or above it.

    Source:
        Masson, Rim, Lee: DDSketch (VLDB 2019), section 2.1; here without collapsing, so that counts at borders
        are exact.
    """

    gamma: float = 1.005
    low: float = 1e-2
    high: float = 1e5

    def __post_init__(self) -> None:
        """Refuse a scale with no buckets or with more than can be kept per variant."""
        if not 1.0 < self.gamma <= 10.0:
            raise ValueError(f"gamma {self.gamma} must be above 1 and at most 10: 1.005 gives 0.5 % buckets")
        if not (0.0 < self.low < self.high and math.isfinite(self.high)):
            raise ValueError(f"range ({self.low}, {self.high}] must be positive, finite and not empty")
        if math.log(self.high / self.low) / math.log(self.gamma) > 100_000:
            raise ValueError(
                f"gamma {self.gamma} over ({self.low}, {self.high}] needs over 100,000 bins: raise gamma"
            )

    @property
    def borders(self) -> tuple[float, ...]:
        """Upper borders of all bins but the last, ascending."""
        return log_borders(self.gamma, self.low, self.high)

    @property
    def bins(self) -> int:
        """How many bins there are, with underflow and overflow."""
        return len(self.borders) + 1

    def bin_of(self, value: float) -> int:
        """The bin of a value.

        Args:
            value: at least 0; `math.inf` for a timeout.

        Raises:
            ValueError: when the value is negative or not a number.
        """
        if not value >= 0.0:
            raise ValueError(
                f"value {value!r} is negative or not a number: give milliseconds, or inf for a timeout"
            )
        return bisect.bisect_left(self.borders, value)

    def bins_of(self, values: npt.ArrayLike) -> IntArray:
        """The bins of many values, any shape."""
        array = np.asarray(values, dtype=np.float64)
        wrong = ~(array >= 0.0)
        if wrong.any():
            raise ValueError(
                f"value {float(array[wrong][0])!r} is negative or not a number: give milliseconds, or inf for a timeout"
            )
        return np.searchsorted(_log_border_array(self.gamma, self.low, self.high), array, side="left").astype(
            np.int64
        )

    def value_of(self, index: int) -> float:
        """The value that a bin stands for: within (gamma - 1)/(gamma + 1) of every value in the bin.

        Bin 0 stands for `low`, the last one for +inf.
        """
        _checked(index, self.bins)
        if index == 0:
            return self.low
        if index == self.bins - 1:
            return math.inf
        below, above = self.borders[index - 1], self.borders[index]
        return 2.0 * below * above / (below + above)

    def upper_border(self, index: int) -> float:
        """The largest value that belongs to a bin (+inf for the last)."""
        _checked(index, self.bins)
        return math.inf if index == self.bins - 1 else self.borders[index]


BoundedScale: TypeAlias = BinaryScale | GridScale
BINARY: Final = BinaryScale()
# Milliseconds from 10 µs to 100 s in 0.5 % buckets: 3,234 bins, of which a variant fills a few hundred. A test of a
# ratio gives away up to two buckets, which is why they are finer than what a person can see.
LATENCY_SCALE: Final = LogScale()
Scale: TypeAlias = BinaryScale | GridScale | LogScale


def unit_value_of(scale: BoundedScale, index: int) -> float:
    """The value of a bin, rescaled so that the scale's ends are 0 and 1."""
    return _checked(index, scale.bins) / (scale.bins - 1)


def unit_arrays(scale: BoundedScale, histogram: Histogram) -> tuple[FloatArray, FloatArray]:
    """The non-empty bins' rescaled values in [0, 1], ascending, and their counts.

    Raises:
        ValueError: when a bin is not on the scale or a count is negative.
    """
    indices = sorted(index for index, count in checked(scale, histogram).items() if count)
    values = np.asarray(indices, dtype=np.float64) / (scale.bins - 1)
    return values, np.asarray([histogram[index] for index in indices], dtype=np.float64)


def flipped(scale: BoundedScale, histogram: Histogram) -> dict[int, int]:
    """The histogram of `low + high - value`: turns "lower is better" into "higher is better", once, at the edge."""
    return {scale.bins - 1 - index: count for index, count in checked(scale, histogram).items()}


def checked(scale: Scale, histogram: Histogram) -> Histogram:
    """The same histogram, after refusing bins that are not on the scale and negative counts.

    Raises:
        ValueError: with the first wrong bin or count.
    """
    if histogram:
        bins = scale.bins
        _checked(min(histogram), bins)
        _checked(max(histogram), bins)
        if min(histogram.values()) < 0:
            raise ValueError(f"histogram {dict(histogram)} has a negative count: counts are never negative")
    return histogram


def total_of(histogram: Histogram) -> int:
    """How many values a histogram holds."""
    return sum(histogram.values())


def _checked(index: int, bins: int) -> int:
    if not 0 <= index < bins:
        raise ValueError(f"bin {index} is not on the scale: it has bins 0 to {bins - 1}")
    return index
