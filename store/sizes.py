"""How large the tables of a store are."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select, text

from anabranch.store.engine import READS
from anabranch.store.tables import METADATA


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSize:
    """One table, with its indices."""

    table: str
    rows: int
    size_bytes: int


def table_sizes(engine: Engine) -> tuple[TableSize, ...]:
    """Every table that is there, the largest first."""
    with engine.connect().execution_options(**{READS: True}) as connection:
        present = set(engine.dialect.get_table_names(connection))
        found = [
            TableSize(
                table=name,
                rows=int(connection.execute(select(func.count()).select_from(table)).scalar_one()),
                size_bytes=_size_bytes(connection, name),
            )
            for name, table in METADATA.tables.items()
            if name in present
        ]
    return tuple(sorted(found, key=lambda size: (-size.size_bytes, size.table)))


def _size_bytes(connection: Connection, table: str) -> int:
    if connection.dialect.name == "postgresql":
        statement = text("SELECT pg_total_relation_size(CAST(quote_ident(:table) AS regclass))")
    else:
        statement = text(
            "SELECT sum(pgsize) FROM dbstat WHERE aggregate = TRUE AND name IN"
            " (SELECT name FROM sqlite_master WHERE tbl_name = :table)"
        )
    return int(connection.execute(statement, {"table": table}).scalar_one() or 0)
