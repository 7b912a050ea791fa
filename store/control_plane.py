"""What a person's command needs of a store, and can have from afar: to read, and to ask. One port, two adapters.

A store is one. The other is `cli.remote_store`, which asks a server's control port. Both pass one contract suite, and for
what is only read `store.sqlite_reader` passes it as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from anabranch.bandit.decision import Command, Verb
    from anabranch.bandit.evidence import Evidence
    from anabranch.store.ledger_port import StoredEvidence, StoredSpec, Tenure
    from anabranch.store.port import AuditEvent, StoredDecision, StoredExperiment


class Ledger(Protocol):
    """See `store.ledger_port.LedgerStore`."""

    def specs(self, name: str) -> list[StoredSpec]:
        """Every document of an experiment, oldest first."""
        ...

    def evidence(self, name: str) -> list[StoredEvidence]:
        """What every tick folded in, of every spec version."""
        ...

    def tenures(self, model: str) -> list[Tenure]:
        """Who was the model's baseline since when, oldest first."""
        ...


class ReadPlane(Protocol):
    """What a command that only looks needs; see `store.port.Store` for what each verb means."""

    @property
    def ledger(self) -> Ledger:
        """Documents and evidence of every spec version."""
        ...

    def experiments(self) -> list[StoredExperiment]:
        """All experiments that may be seen, by name."""
        ...

    def experiment(self, name: str) -> StoredExperiment:
        """One experiment; raises `NotFound`."""
        ...

    def decisions(self, name: str) -> list[StoredDecision]:
        """Every decision, in order."""
        ...

    def evidence_log(self, name: str) -> list[Evidence]:
        """What every tick of the current spec version folded in."""
        ...

    def pending(self, name: str) -> tuple[Command, ...]:
        """The requests no decision has answered yet."""
        ...

    def events(self, name: str | None = None) -> list[AuditEvent]:
        """Who did what, oldest first."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class ControlPlane(ReadPlane, Protocol):
    """What a command needs that asks as well."""

    def request(self, name: str, verb: Verb, argument: str, actor: str, now: float) -> Command:
        """Ask something of an experiment; over a server, the proven name counts and not `actor`."""
        ...
