"""Rows by the thousand in PostgreSQL: one statement with an array a column, however many rows there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table


def insert_new(
    connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]], key: Sequence[str]
) -> list[int]:
    """Insert rows whose key is not taken; answers which of them those were.

    Args:
        connection: An open transaction.
        table: Where to.
        rows: Values of all columns, in the table's order; no two with one key.
        key: Columns of the primary key.
    """
    if not rows:
        return []
    columns = table.c.keys()
    statement = (
        f'INSERT INTO "{table.name}" ({_names(columns)}) SELECT * FROM unnest({_arrays(connection, table, columns)})'  # noqa: S608  # our own names
        f" ON CONFLICT DO NOTHING RETURNING {_names(key)}"
    )
    found = connection.exec_driver_sql(statement, tuple(map(list, zip(*rows, strict=True))))
    new = {tuple(row) for row in found}
    at = [columns.index(name) for name in key]
    return [number for number, row in enumerate(rows) if tuple(row[place] for place in at) in new]


def select_by_key(
    connection: Connection, table: Table, key: Sequence[str], wanted: Sequence[tuple[int, ...]]
) -> list[Any]:
    """The rows of some keys, with all columns."""
    if not wanted:
        return []
    columns = ", ".join(f'"{table.name}"."{name}"' for name in table.c.keys())  # noqa: SIM118  # no mapping: iteration gives columns
    statement = (
        f'SELECT {columns} FROM "{table.name}" JOIN unnest({_arrays(connection, table, key)}) AS wanted ({_names(key)})'  # noqa: S608  # our own names
        f" USING ({_names(key)})"
    )
    return list(connection.exec_driver_sql(statement, tuple(map(list, zip(*wanted, strict=True)))))


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)


def _arrays(connection: Connection, table: Table, columns: Sequence[str]) -> str:
    types = [table.c[name].type.compile(connection.dialect) for name in columns]
    return ", ".join(f"%s::{each}[]" for each in types)
