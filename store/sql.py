"""The store over SQL: SQLite by default, PostgreSQL by URL; every verb is one transaction."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from anabranch.bandit.decision import Command, Decision, Verb
from anabranch.bandit.evidence import Evidence, merge_cells, merge_pairs
from anabranch.bandit.state import ExperimentState
from anabranch.store import codec, packing
from anabranch.store.document import parse
from anabranch.store.engine import READS, new_engine
from anabranch.store.lease import Lease
from anabranch.store.ledger_port import Tenure
from anabranch.store.locks import Lock, hold
from anabranch.store.migrate import require_current, upgrade
from anabranch.store.outbox_port import Message
from anabranch.store.overview import Overview
from anabranch.store.port import (
    MOVES_ENDED,
    AuditEvent,
    Conflict,
    Revision,
    StoredDecision,
    StoredExperiment,
    applied_detail,
)
from anabranch.store.revisions import asks_anew, check_revision, tenure_by
from anabranch.store.second_on_model import second_on_model
from anabranch.store.sql_access import SqlAccess
from anabranch.store.sql_decisions import append_decision, stored_decisions
from anabranch.store.sql_ingestion import SqlIngestion, upsert
from anabranch.store.sql_ledger import SqlLedger, append_spec, append_tenure
from anabranch.store.sql_outbox import SqlOutbox, append_messages
from anabranch.store.sql_overview import OverviewReader
from anabranch.store.sql_replicas import SqlReplicas, database_clock, renew
from anabranch.store.sql_rows import (
    EXPERIMENTS,
    append_event,
    find_experiment,
    next_number,
    save_baseline,
    stored_experiment,
)
from anabranch.store.sql_upkeep import SqlUpkeep
from anabranch.store.sql_volumes import SqlVolumes
from anabranch.store.statement_times import watch_statements
from anabranch.store.tables import (
    DELTA,
    EPOCH,
    EVENT,
    EVIDENCE,
    EXPERIMENT,
    MODEL,
    UNIT,
    WAITING,
)


class Schema(StrEnum):
    """What to do about tables that are not there, or are older than this release."""

    UPGRADE = "upgrade"
    REQUIRE = "require"


def open_store(url: str, *, schema: Schema = Schema.UPGRADE) -> SqlStore:
    """Open a database by URL.

    Args:
        url: A SQLAlchemy URL such as `sqlite:///state/anabranch.db` or `postgresql://user@host/name`.
        schema: Whether its tables may be made or changed.

    Raises:
        SchemaMismatch: If its tables are not those of this release, and may not or cannot be changed.
    """
    engine = new_engine(url)
    try:
        if schema is Schema.UPGRADE:
            upgrade(engine)
        else:
            require_current(engine)
    except BaseException:
        engine.dispose()
        raise
    return SqlStore(engine)


class SqlStore:
    """`port.Store` over a database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.access = SqlAccess(engine)
        self.replicas = SqlReplicas(engine)
        self.upkeep = SqlUpkeep(engine)
        self._reads = engine.execution_options(**{READS: True})
        self._overview = OverviewReader()
        self.ledger = SqlLedger(engine, self._reads)
        self.outbox = SqlOutbox(engine, self._reads)
        self.volumes = SqlVolumes(engine, self._reads)

    def watch(self, heard: Callable[[float, bool], None]) -> None:
        """Tell how long every statement takes.

        Args:
            heard: Called with the seconds, and whether the database refused it; on whichever thread asked.
        """
        watch_statements(self._engine, heard)

    def apply(
        self, document: Mapping[str, Any], actor: str, now: float, *, remark: str = ""
    ) -> StoredExperiment:
        """See `port.Store.apply`."""
        experiment = parse(document)
        text = json.dumps(document, sort_keys=True)
        with self._engine.begin() as connection:
            hold(connection, Lock.EXPERIMENTS)
            row = connection.execute(select(EXPERIMENT).where(EXPERIMENT.c.name == experiment.name)).first()
            if row is not None and row.document == text:
                return stored_experiment(row)
            self._refuse_second_on_model(connection, experiment.name, experiment.model)
            if row is None:
                fresh = self._fresh(connection, text, experiment.model, now, spec_version=1, epoch=0)
                statement = insert(EXPERIMENT).values(name=experiment.name, state_version=0, **fresh)
                key = connection.execute(statement).inserted_primary_key
                assert key is not None
                identifier = int(key[0])
            else:
                identifier = row.id
                state = codec.state_from(row.state)
                if not state.phase.is_over or self._is_to_move_again(connection, experiment.name):
                    check_revision(parse(json.loads(row.document)), experiment, state)
                    if asks_anew(experiment.name, _pending(connection, experiment.name), text):
                        append_event(
                            connection,
                            now,
                            actor,
                            identifier,
                            experiment.name,
                            Verb.REVISE,
                            text,
                            pending=True,
                        )
                    return stored_experiment(row)
                # Whoever ingests counts all of its batch by the document before, or all by this one.
                hold(connection, Lock.INGESTION)
                # A new salt assigns every unit anew: its first request from now on is evidence.
                for table in (UNIT, WAITING):
                    connection.execute(delete(table).where(table.c.experiment_id == identifier))
                fresh = self._fresh(
                    connection,
                    text,
                    experiment.model,
                    now,
                    spec_version=row.spec_version + 1,
                    epoch=state.epoch + 1,
                )
                connection.execute(
                    update(EXPERIMENT)
                    .where(EXPERIMENT.c.id == identifier)
                    .values(state_version=row.state_version + 1, **fresh)
                )
            append_spec(connection, identifier, fresh["spec_version"], text, now=now, actor=actor)
            append_event(
                connection,
                now,
                actor,
                identifier,
                experiment.name,
                "apply",
                applied_detail(fresh["spec_version"], remark),
            )
        return self.experiment(experiment.name)

    def experiments(self) -> list[StoredExperiment]:
        """See `port.Store.experiments`."""
        with self._reads.begin() as connection:
            return [stored_experiment(row) for row in connection.execute(EXPERIMENTS.order_by("name"))]

    def overview(self) -> Overview:
        """See `port.Store.overview`."""
        with self._reads.begin() as connection:
            return self._overview.load(connection)

    def experiment(self, name: str) -> StoredExperiment:
        """See `port.Store.experiment`."""
        with self._reads.begin() as connection:
            return stored_experiment(find_experiment(connection, name))

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
        with self._engine.begin() as connection:
            if lease is not None:
                renew(connection, lease, database_clock)
            row = find_experiment(connection, name)
            saved = connection.execute(
                update(EXPERIMENT)
                .where(EXPERIMENT.c.id == row.id, EXPERIMENT.c.state_version == expected)
                .values(state=codec.state_text(state), state_version=expected + 1)
            )
            if saved.rowcount != 1:
                raise Conflict(
                    f"experiment {name} is at version {row.state_version}, not {expected}: read it again"
                )
            if not evidence.is_empty:
                connection.execute(
                    insert(EVIDENCE).values(
                        experiment_id=row.id,
                        spec_version=row.spec_version,
                        last=evidence.last,
                        body="",
                        packed=packing.pack(codec.evidence_text(evidence)),
                    )
                )
            weights = json.dumps(dict(state.weights), sort_keys=True)
            upsert(connection, EPOCH, [{"experiment_id": row.id, "number": state.epoch, "weights": weights}])
            if decision is not None:
                append_decision(connection, row, decision)
                append_messages(connection, name, messages, now=decision.at_s)
            if revision is not None:
                self._take_revision(connection, row, revision, decision.at_s if decision is not None else 0.0)
            if new_baseline is not None:
                tenure = tenure_by(name, decision, new_baseline, state.epoch_started_s)
                save_baseline(connection, tenure.model, tenure.variant, tenure.since_s)
                append_tenure(connection, tenure)
        return expected + 1

    def load_evidence(self, name: str, after: int) -> Evidence:
        """See `port.Store.load_evidence`."""
        with self._reads.begin() as connection:
            row = find_experiment(connection, name)
            deltas = connection.execute(
                select(DELTA)
                .where(DELTA.c.experiment_id == row.id, DELTA.c.sequence > max(after, row.first_delta))
                .order_by("sequence")
            ).all()
            # An ingestion that began before the document was applied may have ended after it.
            own = row.first_epoch
            cells = merge_cells(
                cell for delta in deltas for cell in codec.cells_from(delta.cells) if cell.epoch >= own
            )
            pairs = merge_pairs(
                pair for delta in deltas for pair in codec.pairs_from(delta.pairs) if pair.epoch >= own
            )
            numbers = {cell.epoch for cell in cells} | {pair.epoch for pair in pairs}
            epochs = connection.execute(select(EPOCH).where(EPOCH.c.experiment_id == row.id)).all()
        return Evidence(
            experiment=name,
            first=deltas[0].sequence if deltas else 0,
            last=deltas[-1].sequence if deltas else 0,
            cells=cells,
            pairs=pairs,
            weights={epoch.number: json.loads(epoch.weights) for epoch in epochs if epoch.number in numbers},
        )

    def evidence_log(self, name: str) -> list[Evidence]:
        """See `port.Store.evidence_log`."""
        with self._reads.begin() as connection:
            row = find_experiment(connection, name)
            bodies = connection.execute(
                select(EVIDENCE.c.body, EVIDENCE.c.packed)
                .where(EVIDENCE.c.experiment_id == row.id, EVIDENCE.c.last > row.first_delta)
                .order_by("last")
            )
            return [codec.evidence_from(packing.unpack(*row)) for row in bodies]

    def decisions(self, name: str) -> list[StoredDecision]:
        """See `port.Store.decisions`."""
        with self._reads.begin() as connection:
            row = find_experiment(connection, name)
            return stored_decisions(connection, row.id)

    def request(self, name: str, verb: Verb, argument: str, actor: str, now: float) -> Command:
        """See `port.Store.request`."""
        with self._engine.begin() as connection:
            hold(connection, Lock.EXPERIMENTS)
            row = find_experiment(connection, name)
            if verb in MOVES_ENDED and codec.state_from(row.state).phase.is_over:
                self._refuse_second_on_model(connection, row.name, row.model)
            identifier = append_event(connection, now, actor, row.id, name, verb, argument, pending=True)
        return Command(id=identifier, verb=verb, actor=actor, argument=argument)

    def pending(self, name: str) -> tuple[Command, ...]:
        """See `port.Store.pending`."""
        with self._reads.begin() as connection:
            return _pending(connection, name)

    def events(self, name: str | None = None) -> list[AuditEvent]:
        """See `port.Store.events`."""
        statement = select(EVENT).order_by("id")
        if name is not None:
            statement = statement.where(EVENT.c.experiment == name)
        with self._reads.begin() as connection:
            return [
                AuditEvent(
                    id=row.id,
                    at_s=row.at_s,
                    actor=row.actor,
                    experiment=row.experiment,
                    verb=row.verb,
                    detail=row.detail,
                )
                for row in connection.execute(statement)
            ]

    def baseline(self, model: str) -> str | None:
        """See `port.Store.baseline`."""
        with self._reads.begin() as connection:
            return connection.execute(select(MODEL.c.baseline).where(MODEL.c.name == model)).scalar()

    def set_baseline(self, model: str, variant: str, now: float) -> None:
        """See `port.Store.set_baseline`."""
        with self._engine.begin() as connection:
            save_baseline(connection, model, variant, now)
            append_tenure(connection, Tenure(model=model, since_s=now, variant=variant))

    def next_lane(self) -> int:
        """See `port.Store.next_lane`."""
        with self._engine.begin() as connection:
            return next_number(connection, "lane")

    @contextmanager
    def ingestion(self) -> Iterator[SqlIngestion]:
        """See `port.Store.ingestion`."""
        with self._engine.begin() as connection:
            yield SqlIngestion(connection)

    def close(self) -> None:
        """See `port.Store.close`."""
        self._engine.dispose()

    def _take_revision(self, connection: Connection, row: Any, revision: Revision, now: float) -> None:
        text = json.dumps(revision.document, sort_keys=True)
        version = row.spec_version + 1
        connection.execute(
            update(EXPERIMENT).where(EXPERIMENT.c.id == row.id).values(document=text, spec_version=version)
        )
        append_spec(connection, row.id, version, text, now=now, actor=revision.actor)

    def _fresh(
        self, connection: Connection, text: str, model: str, now: float, *, spec_version: int, epoch: int
    ) -> dict[str, Any]:
        first_delta = max(
            int(connection.execute(select(func.max(column))).scalar() or 0)
            for column in (DELTA.c.sequence, EVIDENCE.c.last)
        )
        return {
            "model": model,
            "document": text,
            "spec_version": spec_version,
            "salt": secrets.token_hex(16),
            "applied_s": now,
            "first_delta": first_delta,
            "first_epoch": epoch,
            "state": codec.state_text(ExperimentState(epoch=epoch, cursor=first_delta)),
        }

    def _refuse_second_on_model(self, connection: Connection, name: str, model: str) -> None:
        for row in connection.execute(EXPERIMENTS):
            phase = codec.state_from(row.state).phase
            if row.model != model or row.name == name:
                continue
            if not phase.is_over or self._is_to_move_again(connection, row.name):
                raise second_on_model(model, row.name, phase)

    def _is_to_move_again(self, connection: Connection, name: str) -> bool:
        asked = select(EVENT.c.id).where(
            EVENT.c.experiment == name,
            EVENT.c.pending,
            EVENT.c.verb.in_([verb.value for verb in MOVES_ENDED]),
        )
        return connection.execute(asked).first() is not None


def _pending(connection: Connection, name: str) -> tuple[Command, ...]:
    rows = connection.execute(select(EVENT).where(EVENT.c.experiment == name, EVENT.c.pending).order_by("id"))
    return tuple(
        Command(id=row.id, verb=Verb(row.verb), actor=row.actor, argument=row.detail) for row in rows
    )
