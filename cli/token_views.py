"""Tokens as people see them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from anabranch.cli.numbers import duration
from anabranch.store.tokens import Token


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """One line of the list of tokens; times are seconds since 1970."""

    name: str
    id: str
    role: str
    models: tuple[str, ...]
    standing: str
    created_s: float
    created_by: str
    expires_s: float | None
    last_used_s: float | None


def token_rows(tokens: Iterable[Token], now: float) -> list[TokenRow]:
    """Every token, as it stands now."""
    return [
        TokenRow(
            name=token.name,
            id=token.id,
            role=token.role.value,
            models=token.models,
            standing=token.standing(now),
            created_s=token.created_s,
            created_by=token.created_by,
            expires_s=token.expires_s,
            last_used_s=token.last_used_s,
        )
        for token in tokens
    ]


def tokens_table(rows: Iterable[TokenRow], now: float) -> Table:
    """The list as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("NAME", "ID", "ROLE", "MODELS", "STANDING", "ENDS", "LAST USED", "MADE BY"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            row.id,
            row.role,
            ", ".join(row.models) or "all",
            row.standing,
            _ends(row, now),
            "never" if row.last_used_s is None else f"{duration(max(0.0, now - row.last_used_s))} ago",
            row.created_by,
            style="dim" if row.standing != "live" else "",
        )
    return table


def _ends(row: TokenRow, now: float) -> str:
    if row.standing != "live":
        return "-"
    return "never" if row.expires_s is None else f"in {duration(row.expires_s - now)}"
