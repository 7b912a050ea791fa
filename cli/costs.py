"""What requests cost by the price of an hour, and which variant is the cheapest that is good enough."""

from __future__ import annotations

from dataclasses import dataclass

from anabranch.cli.comparing import Comparison, Point, costs_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What the cheapest variant must keep; None asks for nothing.

    Attributes:
        max_ms: Largest p95 of a call.
        min_quality: Least accuracy, or agreement where no labels are known; a share.
    """

    max_ms: float | None = None
    min_quality: float | None = None

    def are_met(self, point: Point) -> bool:
        """Whether a variant keeps them, as it was measured."""
        is_fast = self.max_ms is None or point.p95_ms <= self.max_ms
        return is_fast and (self.min_quality is None or point.quality >= self.min_quality)

    def __str__(self) -> str:
        """As people read it."""
        parts = [] if self.max_ms is None else [f"a p95 of at most {self.max_ms:g} ms"]
        parts += [] if self.min_quality is None else [f"at least {self.min_quality:.1%} right"]
        return " and ".join(parts) or "no demands"


def cheapest_text(comparison: Comparison, hourly_price: float | None, demands: Demands) -> str:
    """The cheapest variant that keeps the demands, and what it saves against the dearest; or that there is none.

    Args:
        comparison: With a price of everybody, in the manifests or as the next argument.
        hourly_price: Of those whose manifest says none.
        demands: What it must keep.
    """
    fit = [point for point in comparison.points if demands.are_met(point)]
    if not fit:
        return f"no variant keeps {demands}: allow more, or measure with another --batch"
    costs = costs_of(comparison, hourly_price)
    best = min(fit, key=lambda point: (costs[point.variant], -point.quality))
    dearest = max(costs, key=lambda name: costs[name])
    cost = costs[best.variant]
    saved = 1 - cost / costs[dearest] if costs[dearest] else 0.0
    return (
        f"cheapest with {demands}: {best.variant}, {cost:.4g} for 1,000 requests, {saved:.0%} less than {dearest} "
        "(one call at a time, never idle)"
    )
