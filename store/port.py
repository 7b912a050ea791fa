"""The store's port: the few verbs by which experiments, evidence and decisions are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from anabranch.bandit.decision import Command, Decision, Verb

# Named in signatures only: who lists decisions should not wait for NumPy and the journal.
if TYPE_CHECKING:
    from anabranch.bandit.evidence import Evidence
    from anabranch.bandit.state import ExperimentState
    from anabranch.store.access_port import AccessStore
    from anabranch.store.ingestion_port import Ingestion
    from anabranch.store.lease import Lease
    from anabranch.store.ledger_port import LedgerStore
    from anabranch.store.outbox_port import Message, OutboxStore
    from anabranch.store.overview import Overview
    from anabranch.store.replica_port import ReplicaStore
    from anabranch.store.upkeep_port import UpkeepStore
    from anabranch.store.volume_port import VolumeStore

MOVES_ENDED = (Verb.RETRY, Verb.UNDO)
"""Requests by which an experiment that is over takes hold of its model's traffic again."""


class Conflict(Exception):
    """Somebody else saved this experiment since it was read: read it again."""


class NotFound(LookupError):
    """There is no such thing in the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredExperiment:
    """An experiment as kept.

    Attributes:
        id: Its number in journal records.
        spec_version: Counts the applied documents from 1.
        salt: Key of the unit hash; new with every spec version.
        first_delta: Evidence up to this delta belongs to an earlier spec version.
        first_epoch: Records of an earlier epoch belong to an earlier spec version.
        state_version: Counts the saves; the handle of compare-and-set.
    """

    id: int
    name: str
    document: Mapping[str, Any]
    spec_version: int
    salt: bytes
    applied_s: float
    first_delta: int
    first_epoch: int
    state_version: int
    state: ExperimentState


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDecision:
    """A decision as kept, chained to the one before it by hash.

    Attributes:
        seal: Digest of the document and the evidence it rests on.
    """

    spec_version: int
    decision: Decision
    previous_hash: str
    hash: str
    seal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A changed document that a tick took while its experiment goes on."""

    document: Mapping[str, Any]
    actor: str


def applied_detail(spec_version: int, remark: str) -> str:
    """What the audit log says of an applied document."""
    return f"spec version {spec_version}" + (f"; {remark}" if remark else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Who did what, when."""

    id: int
    at_s: float
    actor: str
    experiment: str
    verb: str
    detail: str


class Store(Protocol):
    """Where everything is kept."""

    @property
    def access(self) -> AccessStore:
        """Where tokens are kept."""
        ...

    @property
    def upkeep(self) -> UpkeepStore:
        """Where what is no longer needed is removed."""
        ...

    @property
    def ledger(self) -> LedgerStore:
        """Where documents, evidence and the models' baselines are remembered."""
        ...

    @property
    def outbox(self) -> OutboxStore:
        """Where messages wait that are to be told."""
        ...

    @property
    def replicas(self) -> ReplicaStore:
        """Where replicas agree on a leader."""
        ...

    @property
    def volumes(self) -> VolumeStore:
        """Where the volume of requests is kept."""
        ...

    def apply(
        self, document: Mapping[str, Any], actor: str, now: float, *, remark: str = ""
    ) -> StoredExperiment:
        """Create the experiment, begin a new spec version of one that is over, or ask to go on with a changed document.

        An unchanged document changes nothing. A new spec version has a new salt, so every unit is new to it;
        epochs count on. While the experiment goes on, a change that keeps the evidence sound becomes a request
        that the next tick answers; the answer is the experiment as it is until then.

        Args:
            document: The experiment.
            actor: Who applies it.
            now: When.
            remark: What the audit log says beside the spec version, such as a refusal that was overridden.

        Raises:
            InvalidDocument: If the document has problems.
            Conflict: If the experiment goes on, or is about to, and the change would restart its evidence; or its model
                has another one that goes on.
        """
        ...

    def experiments(self) -> list[StoredExperiment]:
        """All experiments, by name."""
        ...

    def overview(self) -> Overview:
        """All that a controller's round begins with."""
        ...

    def experiment(self, name: str) -> StoredExperiment:
        """One experiment.

        Raises:
            NotFound: If there is none of that name; says which there are.
        """
        ...

    def save(
        self,
        name: str,
        *,
        expected: int,
        state: ExperimentState,
        evidence: Evidence,
        decision: Decision | None,
        new_baseline: tuple[str, str] | None = None,
        revision: Revision | None = None,
        messages: Sequence[Message] = (),
        lease: Lease | None = None,
    ) -> int:
        """Save a tick whole: state, evidence, and the decision if there is one; answers the new version.

        Args:
            name: The experiment.
            state: Its new state.
            decision: What was decided, or None when only evidence was folded in.
            expected: The state version that the tick started from.
            evidence: What the tick folded in; kept, so that the decision can be recomputed.
            new_baseline: Model and variant, when the decision makes a winner the model's baseline.
            revision: The document from now on, when the decision took a changed one.
            messages: What is to be told of the decision.
            lease: By which the controller leads that saves; it is renewed. None for whoever shares the store with nobody.

        Raises:
            LeaseLost: If another controller leads by now; nothing is changed.
            Conflict: If somebody saved in between; nothing is changed.
        """
        ...

    def load_evidence(self, name: str, after: int) -> Evidence:
        """The merged outcomes after a delta, with the weights of their epochs."""
        ...

    def evidence_log(self, name: str) -> list[Evidence]:
        """What every tick folded in since the document was applied, in order; empty ones are not kept.

        A document that was taken while the experiment went on begins nothing anew.
        """
        ...

    def decisions(self, name: str) -> list[StoredDecision]:
        """Every decision, of every spec version, in order."""
        ...

    def request(self, name: str, verb: Verb, argument: str, actor: str, now: float) -> Command:
        """Ask something of an experiment; the next tick answers it.

        Raises:
            NotFound: If there is no such experiment.
            Conflict: If a retry or an undo would move the model's traffic under another experiment that is going on.
        """
        ...

    def pending(self, name: str) -> tuple[Command, ...]:
        """The requests no decision has answered yet, oldest first."""
        ...

    def events(self, name: str | None = None) -> list[AuditEvent]:
        """Who did what, oldest first."""
        ...

    def baseline(self, model: str) -> str | None:
        """The variant that serves the model when there is no experiment."""
        ...

    def set_baseline(self, model: str, variant: str, now: float) -> None:
        """Make a variant the model's baseline."""
        ...

    def next_lane(self) -> int:
        """A number that no worker had before."""
        ...

    def ingestion(self) -> AbstractContextManager[Ingestion]:
        """Begin the transaction of one ingestion."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
