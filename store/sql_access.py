"""Tokens in a database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, insert, or_, select, update

from anabranch.store.access import Role
from anabranch.store.access_port import described
from anabranch.store.sql_rows import append_event
from anabranch.store.tables import TOKEN
from anabranch.store.tokens import Token


class SqlAccess:
    """`access_port.AccessStore` over a database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def tokens(self) -> list[Token]:
        """See `access_port.AccessStore.tokens`."""
        with self._engine.begin() as connection:
            rows = connection.execute(select(TOKEN).order_by("name", "created_s", "id"))
            return [_token(row) for row in rows]

    def save_token(self, token: Token, *, verb: str, actor: str, now: float) -> None:
        """See `access_port.AccessStore.save_token`."""
        values = {
            "name": token.name,
            "role": token.role.value,
            "models": json.dumps(list(token.models)),
            "digest": token.digest,
            "created_s": token.created_s,
            "created_by": token.created_by,
            "expires_s": token.expires_s,
            "revoked_s": token.revoked_s,
        }
        with self._engine.begin() as connection:
            changed = connection.execute(update(TOKEN).where(TOKEN.c.id == token.id).values(**values))
            if changed.rowcount == 0:
                connection.execute(insert(TOKEN).values(id=token.id, **values))
            append_event(connection, now, actor, None, "", verb, described(token))

    def note_use(self, used: Mapping[str, float]) -> None:
        """See `access_port.AccessStore.note_use`."""
        with self._engine.begin() as connection:
            for identifier, at_s in used.items():
                is_later = or_(TOKEN.c.last_used_s.is_(None), TOKEN.c.last_used_s < at_s)
                connection.execute(
                    update(TOKEN).where(TOKEN.c.id == identifier, is_later).values(last_used_s=at_s)
                )

    def note_refusal(self, *, actor: str, verb: str, detail: str, now: float, experiment: str = "") -> None:
        """See `access_port.AccessStore.note_refusal`."""
        with self._engine.begin() as connection:
            append_event(connection, now, actor, None, experiment, verb, detail)


def _token(row: Any) -> Token:
    return Token(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        models=tuple(json.loads(row.models)),
        digest=row.digest,
        created_s=row.created_s,
        created_by=row.created_by,
        expires_s=row.expires_s,
        revoked_s=row.revoked_s,
        last_used_s=row.last_used_s,
    )
