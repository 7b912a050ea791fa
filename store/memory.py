"""The store in memory: for simulation and tests, with the same promises as the database."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from anabranch.bandit.decision import Command, Decision, Verb
from anabranch.bandit.evidence import Evidence, merge_cells, merge_pairs
from anabranch.bandit.state import ExperimentState
from anabranch.store.chain import GENESIS, link, seal_of
from anabranch.store.codec import decision_text
from anabranch.store.document import parse
from anabranch.store.ingestion_port import CurrentSpec
from anabranch.store.lease import Lease
from anabranch.store.ledger_port import StoredSpec, Tenure
from anabranch.store.memory_access import MemoryAccess
from anabranch.store.memory_ingestion import Ingests, MemoryIngestion
from anabranch.store.memory_ledger import MemoryLedger, MemoryOutbox
from anabranch.store.memory_replicas import MemoryReplicas
from anabranch.store.memory_upkeep import MemoryUpkeep, Standing
from anabranch.store.memory_volumes import MemoryVolumes
from anabranch.store.outbox_port import Message
from anabranch.store.overview import Overview
from anabranch.store.port import (
    MOVES_ENDED,
    AuditEvent,
    Conflict,
    NotFound,
    Revision,
    StoredDecision,
    StoredExperiment,
    applied_detail,
)
from anabranch.store.revisions import asks_anew, check_revision, tenure_by
from anabranch.store.second_on_model import second_on_model


@dataclass(slots=True)
class _Kept:
    """One experiment and what belongs to it."""

    stored: StoredExperiment
    text: str
    weights: dict[int, Mapping[str, float]] = field(default_factory=dict)
    log: list[Evidence] = field(default_factory=list)
    decisions: list[StoredDecision] = field(default_factory=list)


class MemoryStore:
    """`port.Store` without a database; what it holds is gone with the process.

    Args:
        clock: What the lease of controllers runs by, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._lock = threading.RLock()
        self._kept: dict[str, _Kept] = {}
        self._events: list[AuditEvent] = []
        self._pending: dict[int, tuple[str, Command]] = {}
        self._baselines: dict[str, str] = {}
        self._lanes = 0
        self._ingested = Ingests()
        self.access = MemoryAccess(self._audit)
        self.replicas = MemoryReplicas(clock)
        self.upkeep = MemoryUpkeep(self._ingested, self.replicas, self._standings)
        self.ledger = MemoryLedger(self._find)
        self.outbox = MemoryOutbox(self._audit)
        self.volumes = MemoryVolumes()

    def apply(
        self, document: Mapping[str, Any], actor: str, now: float, *, remark: str = ""
    ) -> StoredExperiment:
        """See `port.Store.apply`."""
        experiment = parse(document)
        text = json.dumps(document, sort_keys=True)
        with self._lock:
            kept = self._kept.get(experiment.name)
            if kept is not None and kept.text == text:
                return kept.stored
            self._refuse_second_on_model(experiment.name, experiment.model)
            if kept is not None and self._standing(kept):
                check_revision(parse(kept.stored.document), experiment, kept.stored.state)
                if asks_anew(experiment.name, self.pending(experiment.name), text):
                    self._ask(experiment.name, Verb.REVISE, text, actor, now)
                return kept.stored
            before = kept.stored if kept is not None else None
            first_delta = len(self._ingested.deltas)
            first_epoch = before.state.epoch + 1 if before is not None else 0
            stored = StoredExperiment(
                id=before.id if before is not None else len(self._kept) + 1,
                name=experiment.name,
                document=json.loads(text),
                spec_version=before.spec_version + 1 if before is not None else 1,
                salt=secrets.token_bytes(16),
                applied_s=now,
                first_delta=first_delta,
                first_epoch=first_epoch,
                state_version=before.state_version + 1 if before is not None else 0,
                state=ExperimentState(epoch=first_epoch, cursor=first_delta),
            )
            if kept is None:
                self._kept[experiment.name] = _Kept(stored=stored, text=text)
            else:
                kept.stored, kept.text = stored, text
                kept.log.clear()
                self._ingested.forget_units(stored.id)
            self._note_spec(stored, now, actor)
            self._audit(now, actor, experiment.name, "apply", applied_detail(stored.spec_version, remark))
            return stored

    def experiments(self) -> list[StoredExperiment]:
        """See `port.Store.experiments`."""
        with self._lock:
            return [self._kept[name].stored for name in sorted(self._kept)]

    def overview(self) -> Overview:
        """See `port.Store.overview`."""
        with self._lock:
            pending: dict[str, list[Command]] = {}
            for owner, command in self._pending.values():
                pending.setdefault(owner, []).append(command)
            names = {kept.stored.id: name for name, kept in self._kept.items()}
            newest = {
                names[delta.experiment]: number
                for number, delta in enumerate(self._ingested.deltas, 1)
                if delta.experiment in names
            }
            return Overview(
                experiments=tuple(self.experiments()),
                pending={name: tuple(asked) for name, asked in pending.items()},
                baselines=dict(self._baselines),
                newest=newest,
            )

    def experiment(self, name: str) -> StoredExperiment:
        """See `port.Store.experiment`."""
        with self._lock:
            return self._find(name).stored

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
        """See `port.Store.save`."""
        with self._lock:
            kept = self._find(name)
            if lease is not None:
                self.replicas.renew(lease)
            if kept.stored.state_version != expected:
                raise Conflict(
                    f"experiment {name} is at version {kept.stored.state_version}, not {expected}: read it again"
                )
            kept.stored = replace(kept.stored, state=state, state_version=expected + 1)
            if not evidence.is_empty:
                kept.log.append(evidence)
                self.ledger.add_evidence(name, kept.stored.spec_version, evidence)
            kept.weights.setdefault(state.epoch, dict(state.weights))
            if decision is not None:
                self._append(kept, decision)
                self.outbox.add(name, messages, now=decision.at_s)
            if revision is not None:
                version = kept.stored.spec_version + 1
                kept.stored = replace(kept.stored, document=revision.document, spec_version=version)
                kept.text = json.dumps(revision.document, sort_keys=True)
                self._note_spec(kept.stored, decision.at_s if decision is not None else 0.0, revision.actor)
            if new_baseline is not None:
                self._baselines[new_baseline[0]] = new_baseline[1]
                self.ledger.add_tenure(tenure_by(name, decision, new_baseline, state.epoch_started_s))
            return expected + 1

    def load_evidence(self, name: str, after: int) -> Evidence:
        """See `port.Store.load_evidence`."""
        with self._lock:
            kept = self._find(name)
            start = max(after, kept.stored.first_delta)
            found = [
                (sequence, delta)
                for sequence, delta in enumerate(self._ingested.deltas[start:], start + 1)
                if delta.experiment == kept.stored.id
            ]
            # An ingestion that began before the document was applied may have ended after it.
            own = kept.stored.first_epoch
            cells = merge_cells(cell for _, delta in found for cell in delta.cells if cell.epoch >= own)
            pairs = merge_pairs(pair for _, delta in found for pair in delta.pairs if pair.epoch >= own)
            numbers = {cell.epoch for cell in cells} | {pair.epoch for pair in pairs}
            return Evidence(
                experiment=name,
                first=found[0][0] if found else 0,
                last=found[-1][0] if found else 0,
                cells=cells,
                pairs=pairs,
                weights={epoch: kept.weights[epoch] for epoch in sorted(numbers) if epoch in kept.weights},
            )

    def evidence_log(self, name: str) -> list[Evidence]:
        """See `port.Store.evidence_log`."""
        with self._lock:
            return list(self._find(name).log)

    def decisions(self, name: str) -> list[StoredDecision]:
        """See `port.Store.decisions`."""
        with self._lock:
            return list(self._find(name).decisions)

    def request(self, name: str, verb: Verb, argument: str, actor: str, now: float) -> Command:
        """See `port.Store.request`."""
        with self._lock:
            kept = self._find(name)
            if verb in MOVES_ENDED and kept.stored.state.phase.is_over:
                self._refuse_second_on_model(name, kept.stored.document["spec"]["model"])
            return self._ask(name, verb, argument, actor, now)

    def pending(self, name: str) -> tuple[Command, ...]:
        """See `port.Store.pending`."""
        with self._lock:
            return tuple(command for owner, command in self._pending.values() if owner == name)

    def events(self, name: str | None = None) -> list[AuditEvent]:
        """See `port.Store.events`."""
        with self._lock:
            return [event for event in self._events if name is None or event.experiment == name]

    def baseline(self, model: str) -> str | None:
        """See `port.Store.baseline`."""
        with self._lock:
            return self._baselines.get(model)

    def set_baseline(self, model: str, variant: str, now: float) -> None:
        """See `port.Store.set_baseline`."""
        with self._lock:
            self._baselines[model] = variant
            self.ledger.add_tenure(Tenure(model=model, since_s=now, variant=variant))

    def next_lane(self) -> int:
        """See `port.Store.next_lane`."""
        with self._lock:
            self._lanes += 1
            return self._lanes

    @contextmanager
    def ingestion(self) -> Iterator[MemoryIngestion]:
        """See `port.Store.ingestion`."""
        with self._lock:
            transaction = MemoryIngestion(self._ingested, self._specs)
            yield transaction
            transaction.commit()

    def close(self) -> None:
        """See `port.Store.close`."""

    def _specs(self) -> list[CurrentSpec]:
        return [
            CurrentSpec(
                id=kept.stored.id,
                spec_version=kept.stored.spec_version,
                first_epoch=kept.stored.first_epoch,
                document=kept.text,
            )
            for kept in self._kept.values()
        ]

    def _ask(self, name: str, verb: Verb, argument: str, actor: str, now: float) -> Command:
        identifier = self._audit(now, actor, name, verb, argument)
        command = Command(id=identifier, verb=verb, actor=actor, argument=argument)
        self._pending[identifier] = (name, command)
        return command

    def _note_spec(self, stored: StoredExperiment, now: float, actor: str) -> None:
        spec = StoredSpec(version=stored.spec_version, document=stored.document, applied_s=now, actor=actor)
        self.ledger.add_spec(stored.name, spec)

    def _append(self, kept: _Kept, decision: Decision) -> None:
        before = kept.decisions[-1] if kept.decisions else None
        previous = GENESIS if before is None else before.hash
        sealed_up_to = 0 if before is None else before.decision.evidence_last
        folded = [part.body for part in self.ledger.evidence(kept.stored.name) if part.last > sealed_up_to]
        seal = seal_of(kept.text, folded)
        kept.decisions.append(
            StoredDecision(
                spec_version=kept.stored.spec_version,
                decision=decision,
                previous_hash=previous,
                hash=link(previous, decision_text(decision), seal),
                seal=seal,
            )
        )
        for identifier in decision.handled:
            self._pending.pop(identifier, None)

    def _audit(self, now: float, actor: str, experiment: str, verb: str, detail: str) -> int:
        event = AuditEvent(
            id=len(self._events) + 1,
            at_s=now,
            actor=actor,
            experiment=experiment,
            verb=str(verb),
            detail=detail,
        )
        self._events.append(event)
        return event.id

    def _standings(self) -> list[Standing]:
        return [
            Standing(experiment=kept.stored.id, cursor=kept.stored.state.cursor, ended_s=_ended_s(kept))
            for kept in self._kept.values()
        ]

    def _find(self, name: str) -> _Kept:
        kept = self._kept.get(name)
        if kept is None:
            known = ", ".join(sorted(self._kept)) or "none"
            raise NotFound(f"no experiment {name!r}; there are: {known}")
        return kept

    def _refuse_second_on_model(self, name: str, model: str) -> None:
        for kept in self._kept.values():
            if kept.stored.name == name or kept.stored.document["spec"]["model"] != model:
                continue
            if self._standing(kept):
                raise second_on_model(model, kept.stored.name, kept.stored.state.phase)

    def _standing(self, kept: _Kept) -> str:
        """Where an experiment that is going on stands; empty for one that is over."""
        phase = kept.stored.state.phase
        if not phase.is_over:
            return str(phase)
        asked = any(command.verb in MOVES_ENDED for command in self.pending(kept.stored.name))
        return "about to be retried or undone" if asked else ""


def _ended_s(kept: _Kept) -> float | None:
    if not kept.stored.state.phase.is_over:
        return None
    decided_s = kept.decisions[-1].decision.at_s if kept.decisions else 0.0
    return max(kept.stored.applied_s, decided_s)
