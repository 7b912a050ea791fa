"""Rows by the thousand in SQLite, by statements of the driver: its own cost a row is a fifth of a general statement's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table

_CHUNK = 500  # Keys a statement.


def insert_new(
    connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]], key: Sequence[str]
) -> list[int]:
    """Insert rows whose key is not taken; answers which of them those were.

    Args:
        connection: An open transaction that nobody writes beside.
        table: Where to; numbered by SQLite, as every table without an integer key is.
        rows: Values of all columns, in the table's order; no two with one key.
        key: Columns of the primary key.
    """
    if not rows:
        return []
    columns = table.c.keys()
    names = ", ".join(f'"{name}"' for name in columns)
    places = ", ".join("?" * len(columns))
    last = connection.exec_driver_sql(f'SELECT max(rowid) FROM "{table.name}"').scalar() or 0  # noqa: S608  # our own names
    inserted = connection.exec_driver_sql(
        f'INSERT INTO "{table.name}" ({names}) VALUES ({places}) ON CONFLICT DO NOTHING',  # noqa: S608  # our own names
        list(rows),
    ).rowcount
    if inserted == len(rows):
        return list(range(len(rows)))
    # A new row is numbered after every other one.
    keys = ", ".join(f'"{name}"' for name in key)
    found = connection.exec_driver_sql(f'SELECT {keys} FROM "{table.name}" WHERE rowid > ?', (last,))  # noqa: S608  # our own names
    new = {tuple(row) for row in found}
    at = [columns.index(name) for name in key]
    return [number for number, row in enumerate(rows) if tuple(row[place] for place in at) in new]


def select_by_key(
    connection: Connection, table: Table, key: Sequence[str], wanted: Sequence[tuple[int, ...]]
) -> list[Any]:
    """The rows of some keys, with all columns."""
    columns = ", ".join(f'"{name}"' for name in table.columns.keys())  # noqa: SIM118  # no mapping: iteration gives columns
    names = ", ".join(f'"{name}"' for name in key)
    found: list[Any] = []
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        places = ", ".join([f"({', '.join('?' * len(key))})"] * len(chunk))
        statement = f'SELECT {columns} FROM "{table.name}" WHERE ({names}) IN (VALUES {places})'  # noqa: S608  # our own names
        values = tuple(value for each in chunk for value in each)
        found += connection.exec_driver_sql(statement, values)
    return found
