"""What the routers route by: one immutable value, published whole, told apart by its version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anabranch.bandit.assignment import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorPlan:
    """Which requests are copied to which arms.

    Attributes:
        fraction: Share of requests that are sampled, in [0, 1].
        arms: Numbers of the candidates that get a copy.
        noise_floor: Share of the sampled requests that go to the baseline a second time, in [0, 1].
    """

    fraction: float
    arms: tuple[int, ...]
    noise_floor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRule:
    """Which values a feedback metric takes.

    Attributes:
        is_graded: Whether values between the ends occur.
    """

    low: float = 0.0
    high: float = 1.0
    is_graded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How one model is routed.

    Attributes:
        arms: Variant names by arm number; the baseline is number 0.
        experiment: Name of the experiment, empty when the model has none.
        experiment_id: Number of the experiment in journal records, 0 when there is none.
        epoch: Number of the stretch of constant weights.
        salt: Key of the unit hash, as hexadecimal text.
        unit_metadata: Request metadata key that names the unit, or None for a fresh draw per request.
        feedback: By name after `feedback.`, what the experiment takes.
    """

    model: str
    arms: tuple[str, ...]
    layout: Layout
    experiment: str = ""
    experiment_id: int = 0
    epoch: int = 0
    salt: str = ""
    unit_metadata: str | None = None
    mirror: MirrorPlan | None = None
    feedback: Mapping[str, FeedbackRule] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        """The variant that serves when in doubt."""
        return self.arms[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All routes, by model name."""

    version: int
    published_s: float
    routes: Mapping[str, Route]
