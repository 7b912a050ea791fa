"""Which candidates are left alone for now, by what the access log says of them.

Envoy retries within a cluster only, so a failing candidate is taken off by a push of routes.
"""

from __future__ import annotations

from anabranch.bandit.snapshot import Snapshot
from anabranch.mesh.routes import Manifests
from anabranch.variants.outlier import Outlier
from anabranch.wire.seam import Status

Arm = tuple[str, str]
"""A model and a variant."""


class Ejections:
    """The outlier ejection of every candidate of a snapshot."""

    def __init__(self) -> None:
        self._outliers: dict[Arm, Outlier] = {}

    @property
    def count(self) -> int:
        """Ejections so far, of the candidates there are."""
        return sum(outlier.ejections for outlier in self._outliers.values())

    def counts(self) -> dict[Arm, int]:
        """By candidate, its ejections so far."""
        return {arm: outlier.ejections for arm, outlier in self._outliers.items()}

    def watch(self, snapshot: Snapshot, manifests: Manifests) -> None:
        """Keep account of a snapshot's candidates; a baseline is never ejected, since nobody else could answer."""
        arms = [(model, name) for model, route in snapshot.routes.items() for name in route.arms[1:]]
        self._outliers = {
            arm: self._outliers.get(arm) or Outlier(remote.outliers)
            for arm in arms
            if (remote := manifests[arm[0]][arm[1]].remote) is not None
        }

    def heard(self, model: str, variant: str, status: Status, now: float, waited_s: float) -> None:
        """Learn how a request ended that a variant was asked."""
        outlier = self._outliers.get((model, variant))
        if outlier is not None:
            outlier.heard(status, now, waited_s)

    def at(self, now: float) -> frozenset[Arm]:
        """Who is left alone at a time, on the clock of `heard`."""
        return frozenset(arm for arm, outlier in self._outliers.items() if outlier.left_s(now) > 0.0)
