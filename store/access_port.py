"""The port by which tokens, and who was refused, are kept; every store has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from anabranch.store.tokens import Token


class AccessStore(Protocol):
    """Where tokens are kept. What changes them is in the audit log."""

    def tokens(self) -> list[Token]:
        """Every token that ever was, by name, then by age: a revoked one is not forgotten."""
        ...

    def save_token(self, token: Token, *, verb: str, actor: str, now: float) -> None:
        """Keep a token, or change what is kept of it; its last use stays as it is.

        Args:
            token: The token.
            verb: What is done, for the audit log.
            actor: Who does it.
            now: When.
        """
        ...

    def note_use(self, used: Mapping[str, float]) -> None:
        """Remember when tokens were used last, by their ids."""
        ...

    def note_refusal(self, *, actor: str, verb: str, detail: str, now: float, experiment: str = "") -> None:
        """Write an attempt that was refused into the audit log."""
        ...


def described(token: Token) -> str:
    """What the audit log says of a token."""
    models = f" for {', '.join(token.models)}" if token.models else ""
    return f"{token.name} ({token.id}), {token.role}{models}"
