"""All that a controller's round begins with, in one look: as many statements for a hundred experiments as for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anabranch.bandit.decision import Command

if TYPE_CHECKING:
    from anabranch.store.port import StoredExperiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What there is.

    Attributes:
        experiments: All of them, by name.
        pending: By experiment, the requests that no decision has answered yet, oldest first.
        baselines: By model, the variant that serves it when there is no experiment.
        newest: By experiment, its last delta, where that is not folded in yet.
    """

    experiments: tuple[StoredExperiment, ...]
    pending: Mapping[str, tuple[Command, ...]]
    baselines: Mapping[str, str]
    newest: Mapping[str, int]

    def has_news(self, kept: StoredExperiment) -> bool:
        """Whether there are outcomes that the experiment's next tick would fold in."""
        return self.newest.get(kept.name, 0) > max(kept.state.cursor, kept.first_delta)
