"""Rows of the SQL store: finding them, turning them into values, and appending to the audit log."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from anabranch.store import codec
from anabranch.store.port import NotFound, StoredExperiment
from anabranch.store.sql_ingestion import upsert
from anabranch.store.tables import COUNTER, EVENT, EXPERIMENT, MODEL

EXPERIMENTS = select(EXPERIMENT)


def find_experiment(connection: Connection, name: str) -> Any:
    """The row of an experiment.

    Raises:
        NotFound: If there is none of that name; says which there are.
    """
    row = connection.execute(EXPERIMENTS.where(EXPERIMENT.c.name == name)).first()
    if row is not None:
        return row
    known = ", ".join(connection.execute(select(EXPERIMENT.c.name).order_by("name")).scalars()) or "none"
    raise NotFound(f"no experiment {name!r}; there are: {known}")


def stored_experiment(row: Any) -> StoredExperiment:
    """The value of an experiment's row."""
    return StoredExperiment(
        id=row.id,
        name=row.name,
        document=json.loads(row.document),
        spec_version=row.spec_version,
        salt=bytes.fromhex(row.salt),
        applied_s=row.applied_s,
        first_delta=row.first_delta,
        first_epoch=row.first_epoch,
        state_version=row.state_version,
        state=codec.state_from(row.state),
    )


def save_baseline(connection: Connection, model: str, variant: str, now: float) -> None:
    """Make a variant the model's baseline."""
    upsert(
        connection,
        MODEL,
        [{"name": model, "baseline": variant, "changed_s": now}],
        update_columns=("baseline", "changed_s"),
    )


def next_number(connection: Connection, counter: str) -> int:
    """Count on, in one statement: no two transactions get the same number."""
    build = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    counting = build(COUNTER).values(name=counter, value=1)
    counted = counting.on_conflict_do_update(
        index_elements=["name"], set_={"value": COUNTER.c.value + 1}
    ).returning(COUNTER.c.value)
    return int(connection.execute(counted).scalar_one())


def append_event(
    connection: Connection,
    now: float,
    actor: str,
    experiment_id: int | None,
    experiment: str,
    verb: str,
    detail: str,
    *,
    pending: bool = False,
) -> int:
    """Append to the audit log; answers the event's number."""
    result = connection.execute(
        insert(EVENT).values(
            at_s=now,
            actor=actor,
            experiment_id=experiment_id,
            experiment=experiment,
            verb=str(verb),
            detail=detail,
            pending=pending,
        )
    )
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])
