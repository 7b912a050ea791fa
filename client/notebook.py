"""Small HTML for notebooks; everything that came from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as a table."""
    top = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def page(title: str, subtitle: str, *parts: str) -> str:
    """Parts, themselves HTML, under a title."""
    return f"<b>{escape(title)}</b> <span style='opacity:.7'>{escape(subtitle)}</span>" + "".join(parts)


def share(weight: float) -> str:
    """A weight as people read it."""
    return f"{100 * weight:.3g}%"


def when(at_s: float) -> str:
    """A moment, in UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
