"""The port of what a store remembers beside experiments: documents, evidence, who served when, and what is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSpec:
    """A document that was applied, or taken while the experiment went on."""

    version: int
    document: Mapping[str, Any]
    applied_s: float
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvidence:
    """What one tick folded in, as it was sealed.

    Attributes:
        last: Number of the last delta inside.
        body: Its JSON, letter by letter: what the hashes are over.
    """

    spec_version: int
    last: int
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """A time in which a variant is its model's baseline; it ends with the next one's beginning.

    Attributes:
        experiment: Which made it so; empty when a person chose.
        decision: That experiment's decision, 0 when a person chose.
        reason: Why, in a sentence.
    """

    model: str
    since_s: float
    variant: str
    experiment: str = ""
    decision: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """What the servers of this store serve, so that a document can be checked before it is applied.

    Attributes:
        variants: By model and variant, the tensors it takes and gives, in a form that is equal for equal ones.
        webhook_hosts: Hosts that gates and notifications may go to.
        at_s: When a server said so last.
        class_targets_ms: By class of priority, within what 99 of 100 of its requests should be answered.
    """

    variants: Mapping[str, Mapping[str, str]]
    webhook_hosts: tuple[str, ...]
    at_s: float
    class_targets_ms: Mapping[str, float] = field(default_factory=dict)


class LedgerStore(Protocol):
    """What is remembered."""

    def specs(self, name: str) -> list[StoredSpec]:
        """Every document of an experiment, oldest first."""
        ...

    def evidence(self, name: str) -> list[StoredEvidence]:
        """What every tick folded in, in order, of every spec version."""
        ...

    def tenures(self, model: str) -> list[Tenure]:
        """Who was the model's baseline since when, oldest first."""
        ...

    def catalog(self) -> Catalog | None:
        """What is served; None before any server ran on this store."""
        ...

    def save_catalog(self, catalog: Catalog) -> None:
        """Remember what is served."""
        ...
