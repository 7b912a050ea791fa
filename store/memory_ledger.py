"""What a store in memory remembers beside experiments."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from anabranch.bandit.evidence import Evidence
from anabranch.store.codec import evidence_text
from anabranch.store.ledger_port import Catalog, StoredEvidence, StoredSpec, Tenure
from anabranch.store.outbox_port import DEAD_BY, DEAD_VERB, Fate, Message, Outgoing


class MemoryLedger:
    """`ledger_port.LedgerStore` without a database.

    Args:
        find: Raises NotFound for an experiment that there is not.
    """

    def __init__(self, find: Callable[[str], object]) -> None:
        self._find = find
        self._specs: dict[str, list[StoredSpec]] = defaultdict(list)
        self._evidence: dict[str, list[StoredEvidence]] = defaultdict(list)
        self._tenures: list[Tenure] = []
        self._catalog: Catalog | None = None

    def specs(self, name: str) -> list[StoredSpec]:
        """See `ledger_port.LedgerStore.specs`."""
        self._find(name)
        return list(self._specs[name])

    def evidence(self, name: str) -> list[StoredEvidence]:
        """See `ledger_port.LedgerStore.evidence`."""
        self._find(name)
        return list(self._evidence[name])

    def tenures(self, model: str) -> list[Tenure]:
        """See `ledger_port.LedgerStore.tenures`."""
        return [tenure for tenure in self._tenures if tenure.model == model]

    def catalog(self) -> Catalog | None:
        """See `ledger_port.LedgerStore.catalog`."""
        return self._catalog

    def save_catalog(self, catalog: Catalog) -> None:
        """See `ledger_port.LedgerStore.save_catalog`."""
        self._catalog = catalog

    def add_spec(self, name: str, spec: StoredSpec) -> None:
        """Remember a document."""
        self._specs[name].append(spec)

    def add_evidence(self, name: str, version: int, evidence: Evidence) -> None:
        """Remember what a tick folded in."""
        self._evidence[name].append(
            StoredEvidence(spec_version=version, last=evidence.last, body=evidence_text(evidence))
        )

    def add_tenure(self, tenure: Tenure) -> None:
        """Remember who serves from now on."""
        self._tenures.append(tenure)


class MemoryOutbox:
    """`outbox_port.OutboxStore` without a database.

    Args:
        audit: Appends to the audit log: time, actor, experiment, verb and detail.
    """

    def __init__(self, audit: Callable[[float, str, str, str, str], int]) -> None:
        self._audit = audit
        self._lock = threading.Lock()
        self._outgoing: dict[int, Outgoing] = {}

    def due(self, now: float, limit: int) -> list[Outgoing]:
        """See `outbox_port.OutboxStore.due`."""
        with self._lock:
            waiting = (each for each in self._outgoing.values() if each.fate is Fate.WAITING)
            return [each for each in waiting if each.due_s <= now][:limit]

    def messages(self, experiment: str) -> list[Outgoing]:
        """See `outbox_port.OutboxStore.messages`."""
        with self._lock:
            return [each for each in self._outgoing.values() if each.experiment == experiment]

    def settle(self, outgoing: Outgoing) -> None:
        """See `outbox_port.OutboxStore.settle`."""
        with self._lock:
            kept = self._outgoing[outgoing.id]
            self._outgoing[outgoing.id] = replace(
                kept,
                fate=outgoing.fate,
                attempts=outgoing.attempts,
                due_s=outgoing.due_s,
                error=outgoing.error,
            )

    def note_dead(self, experiment: str, detail: str, now: float) -> None:
        """See `outbox_port.OutboxStore.note_dead`."""
        self._audit(now, DEAD_BY, experiment, DEAD_VERB, detail)

    def add(self, experiment: str, messages: Iterable[Message], *, now: float) -> None:
        """Put messages in."""
        with self._lock:
            for message in messages:
                number = len(self._outgoing) + 1
                self._outgoing[number] = Outgoing(
                    id=number,
                    experiment=experiment,
                    message=message,
                    fate=Fate.WAITING,
                    attempts=0,
                    due_s=now,
                )
