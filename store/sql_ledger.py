"""What a database remembers beside experiments."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, insert, select

from anabranch.store import packing
from anabranch.store.ledger_port import Catalog, StoredEvidence, StoredSpec, Tenure
from anabranch.store.sql_ingestion import upsert
from anabranch.store.sql_rows import find_experiment
from anabranch.store.tables import CATALOG, EVIDENCE, SPEC_VERSION, TENURE

CATALOG_BODY: TypeAdapter[Catalog] = TypeAdapter(Catalog)
_ROW = "served"


class SqlLedger:
    """`ledger_port.LedgerStore` over a database.

    Args:
        engine: For what is written.
        reads: The same, for what only reads.
    """

    def __init__(self, engine: Engine, reads: Engine) -> None:
        self._engine = engine
        self._reads = reads

    def specs(self, name: str) -> list[StoredSpec]:
        """See `ledger_port.LedgerStore.specs`."""
        with self._reads.begin() as connection:
            row = find_experiment(connection, name)
            rows = connection.execute(
                select(SPEC_VERSION).where(SPEC_VERSION.c.experiment_id == row.id).order_by("version")
            )
            return [
                StoredSpec(
                    version=kept.version,
                    document=json.loads(kept.document),
                    applied_s=kept.applied_s,
                    actor=kept.actor,
                )
                for kept in rows
            ]

    def evidence(self, name: str) -> list[StoredEvidence]:
        """See `ledger_port.LedgerStore.evidence`."""
        with self._reads.begin() as connection:
            row = find_experiment(connection, name)
            rows = connection.execute(
                select(EVIDENCE).where(EVIDENCE.c.experiment_id == row.id).order_by("last")
            )
            return [
                StoredEvidence(
                    spec_version=kept.spec_version,
                    last=kept.last,
                    body=packing.unpack(kept.body, kept.packed),
                )
                for kept in rows
            ]

    def tenures(self, model: str) -> list[Tenure]:
        """See `ledger_port.LedgerStore.tenures`."""
        with self._reads.begin() as connection:
            rows = connection.execute(select(TENURE).where(TENURE.c.model == model).order_by("id"))
            return [
                Tenure(
                    model=kept.model,
                    since_s=kept.since_s,
                    variant=kept.variant,
                    experiment=kept.experiment,
                    decision=kept.decision,
                    reason=kept.reason,
                )
                for kept in rows
            ]

    def catalog(self) -> Catalog | None:
        """See `ledger_port.LedgerStore.catalog`."""
        with self._reads.begin() as connection:
            body = connection.execute(select(CATALOG.c.body).where(CATALOG.c.name == _ROW)).scalar()
        return None if body is None else CATALOG_BODY.validate_json(body)

    def save_catalog(self, catalog: Catalog) -> None:
        """See `ledger_port.LedgerStore.save_catalog`."""
        body = CATALOG_BODY.dump_json(catalog).decode()
        with self._engine.begin() as connection:
            upsert(connection, CATALOG, [{"name": _ROW, "body": body}], update_columns=("body",))


def append_tenure(connection: Connection, tenure: Tenure) -> None:
    """Remember who serves from now on."""
    connection.execute(
        insert(TENURE).values(
            model=tenure.model,
            since_s=tenure.since_s,
            variant=tenure.variant,
            experiment=tenure.experiment,
            decision=tenure.decision,
            reason=tenure.reason,
        )
    )


def append_spec(
    connection: Connection, experiment: int, version: int, document: str, *, now: float, actor: str
) -> None:
    """Remember a document."""
    values: dict[str, Any] = {"experiment_id": experiment, "version": version, "document": document}
    connection.execute(insert(SPEC_VERSION).values(applied_s=now, actor=actor, **values))
