"""What is known of variants before any traffic, as far as a first document needs it: of built ones, or of a server's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from anabranch.bandit.verdicts import Outcome

if TYPE_CHECKING:
    from anabranch.client.values import Variant
    from anabranch.variants.manifest import Manifest

_AS_GIVEN: Final = ("imported", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """One variant.

    Attributes:
        gate: What the offline gate said; empty where there was nothing to judge by.
        gate_reason: Why.
        agreement: Share of rows with the reference's top class; None where nothing was compared.
        compared: How many rows that is of.
        latency_ms: The median of calls with the smallest measured batch.
        generates: Answers are made token by token.
        is_as_given: It is the model as somebody gave it, or in full precision.
    """

    gate: str
    gate_reason: str
    agreement: float | None
    compared: int
    latency_ms: float | None
    generates: bool
    is_as_given: bool

    @property
    def failed(self) -> bool:
        """Whether the offline gate keeps it out."""
        return self.gate == Outcome.FAIL


def of_manifests(manifests: Mapping[str, Manifest]) -> dict[str, Offline]:
    """By variant, from what was built."""
    return {
        name: Offline(
            gate="" if manifest.gate is None else str(Outcome(manifest.gate.outcome)),
            gate_reason="" if manifest.gate is None else manifest.gate.reason,
            agreement=None if manifest.parity is None else manifest.parity.top1_agreement,
            compared=0 if manifest.parity is None else manifest.parity.requests,
            latency_ms=manifest.latency[0].p50_ms if manifest.latency else None,
            generates=manifest.generation is not None,
            is_as_given=manifest.recipe.get("name") in _AS_GIVEN,
        )
        for name, manifest in manifests.items()
    }


def of_served(variants: Mapping[str, Variant]) -> dict[str, Offline]:
    """By variant, from what a server says."""
    return {
        name: Offline(
            gate=variant.gate,
            gate_reason=variant.gate_reason,
            agreement=variant.top1_agreement,
            compared=variant.compared,
            latency_ms=variant.latency_ms,
            generates=variant.generates,
            is_as_given=variant.recipe in _AS_GIVEN,
        )
        for name, variant in variants.items()
    }
