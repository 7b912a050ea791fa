"""Running sums of one arm's rescaled outcomes: what the next segment's predictions and stakes are made of."""

from dataclasses import dataclass
from typing import Final

from anabranch.bandit.scales import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmMoments:
    """Count, sum and sum of squares of outcomes on [0, 1] (of differences on [-1, 1] in a paired test)."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, values: FloatArray, counts: FloatArray) -> "ArmMoments":
        """The sums with a segment's outcomes added.

        Args:
            values: different outcomes, shape (k,).
            counts: how often each occurred, shape (k,).
        """
        return ArmMoments(
            count=self.count + int(counts.sum()),
            total=self.total + float(values @ counts),
            squares=self.squares + float((values * values) @ counts),
        )

    def joined(self, other: "ArmMoments") -> "ArmMoments":
        """The sums of both."""
        return ArmMoments(
            count=self.count + other.count,
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )

    @property
    def spread(self) -> float:
        """Variance as a share of the Bernoulli variance of the same mean, in [0.001, 1]; 1 without data."""
        if not self.count:
            return 1.0
        mean = self.total / self.count
        bernoulli = mean * (1.0 - mean)
        if bernoulli <= 0.0:
            return 1.0
        # Two pseudo-observations of a Bernoulli metric keep the first estimates away from 0.
        ratio = max(self.squares / self.count - mean * mean, 0.0) / bernoulli
        return min(max((ratio * self.count + 2.0) / (self.count + 2.0), 1e-3), 1.0)


NO_MOMENTS: Final = ArmMoments()
