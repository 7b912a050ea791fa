"""The decision log as people see it."""

from __future__ import annotations

from collections.abc import Sequence

from anabranch.cli.numbers import moment
from anabranch.cli.view_types import ActionView, DecisionView
from anabranch.store.port import StoredDecision


def decision_views(decisions: Sequence[StoredDecision]) -> tuple[DecisionView, ...]:
    """The decision log, oldest first."""
    started: dict[int, float] = {}
    for kept in decisions:
        started.setdefault(kept.spec_version, kept.decision.at_s)
    return tuple(
        DecisionView(
            number=kept.decision.number,
            spec_version=kept.spec_version,
            at_s=kept.decision.at_s,
            at=moment(kept.decision.at_s),
            since_start_s=kept.decision.at_s - started[kept.spec_version],
            phase=kept.decision.phase,
            step=kept.decision.step + 1,
            epoch=kept.decision.epoch,
            weights=dict(kept.decision.weights),
            actions=tuple(
                ActionView(change=action.change, variant=action.variant, reason=action.reason)
                for action in kept.decision.actions
            ),
            evidence_last=kept.decision.evidence_last,
            hash=kept.hash,
        )
        for kept in decisions
    )
