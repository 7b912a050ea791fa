"""The share that the baseline keeps while a promotion bakes, so that a guardrail against it can still be judged.

At 100 % there is nothing to compare with: a guardrail with a nonInferiorityMargin would watch nothing.
"""

from __future__ import annotations

from typing import Final

from anabranch.bandit import spec
from anabranch.store.document_schema import MetricDocument, PromoteDocument, SpecDocument

DEFAULT_PERCENT: Final = 5.0


def held_back(promote: PromoteDocument, body: SpecDocument) -> float:
    """The percentage that is held back: as given, or by whether a guardrail needs a baseline to be compared with."""
    if promote.hold_back is not None:
        return promote.hold_back
    return DEFAULT_PERCENT if promote.bake > 0.0 and relative_guardrails(body) else 0.0


def relative_guardrails(body: SpecDocument) -> list[str]:
    """Names of the guardrails that compare with the baseline in the split."""
    return [metric.name for metric in body.metrics if _is_relative(metric)]


def _is_relative(metric: MetricDocument) -> bool:
    return (
        metric.role is spec.Role.GUARDRAIL
        and not metric.dry_run
        and metric.non_inferiority_margin is not None
    )
