"""The outbox in a database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, insert, select, update

from anabranch.bandit.hooks import Webhook
from anabranch.store.outbox_port import DEAD_BY, DEAD_VERB, Fate, Message, Outgoing
from anabranch.store.sql_rows import append_event, find_experiment
from anabranch.store.tables import OUTBOX

_WEBHOOK: TypeAdapter[Webhook] = TypeAdapter(Webhook)


class SqlOutbox:
    """`outbox_port.OutboxStore` over a database.

    Args:
        engine: For what is written.
        reads: The same, for what only reads.
    """

    def __init__(self, engine: Engine, reads: Engine) -> None:
        self._engine = engine
        self._reads = reads

    def due(self, now: float, limit: int) -> list[Outgoing]:
        """See `outbox_port.OutboxStore.due`."""
        statement = select(OUTBOX).where(OUTBOX.c.fate == Fate.WAITING.value, OUTBOX.c.due_s <= now)
        with self._reads.begin() as connection:
            return [_outgoing(row) for row in connection.execute(statement.order_by("id").limit(limit))]

    def messages(self, experiment: str) -> list[Outgoing]:
        """See `outbox_port.OutboxStore.messages`."""
        statement = select(OUTBOX).where(OUTBOX.c.experiment == experiment).order_by("id")
        with self._reads.begin() as connection:
            return [_outgoing(row) for row in connection.execute(statement)]

    def settle(self, outgoing: Outgoing) -> None:
        """See `outbox_port.OutboxStore.settle`."""
        with self._engine.begin() as connection:
            connection.execute(
                update(OUTBOX)
                .where(OUTBOX.c.id == outgoing.id)
                .values(
                    fate=outgoing.fate.value,
                    attempts=outgoing.attempts,
                    due_s=outgoing.due_s,
                    error=outgoing.error,
                )
            )

    def note_dead(self, experiment: str, detail: str, now: float) -> None:
        """See `outbox_port.OutboxStore.note_dead`."""
        with self._engine.begin() as connection:
            row = find_experiment(connection, experiment)
            append_event(connection, now, DEAD_BY, row.id, experiment, DEAD_VERB, detail)


def append_messages(
    connection: Connection, experiment: str, messages: Iterable[Message], *, now: float
) -> None:
    """Put messages into the outbox."""
    rows = [
        {
            "experiment": experiment,
            "key": message.key,
            "target": message.target,
            "webhook": _WEBHOOK.dump_json(message.webhook).decode(),
            "body": message.body,
            "fate": Fate.WAITING.value,
            "attempts": 0,
            "due_s": now,
            "error": "",
        }
        for message in messages
    ]
    if rows:
        connection.execute(insert(OUTBOX), rows)


def _outgoing(row: Any) -> Outgoing:
    return Outgoing(
        id=row.id,
        experiment=row.experiment,
        message=Message(
            key=row.key, target=row.target, webhook=_WEBHOOK.validate_json(row.webhook), body=row.body
        ),
        fate=Fate(row.fate),
        attempts=row.attempts,
        due_s=row.due_s,
        error=row.error,
    )
