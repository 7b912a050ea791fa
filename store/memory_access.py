"""Tokens in memory, with the same promises as the database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from anabranch.store.access_port import described
from anabranch.store.tokens import Token


class MemoryAccess:
    """`access_port.AccessStore` without a database.

    Args:
        audit: Appends to the store's audit log: when, who, experiment, verb, detail.
    """

    def __init__(self, audit: Callable[[float, str, str, str, str], int]) -> None:
        self._audit = audit
        self._lock = threading.Lock()
        self._tokens: dict[str, Token] = {}

    def tokens(self) -> list[Token]:
        """See `access_port.AccessStore.tokens`."""
        with self._lock:
            return sorted(self._tokens.values(), key=lambda token: (token.name, token.created_s, token.id))

    def save_token(self, token: Token, *, verb: str, actor: str, now: float) -> None:
        """See `access_port.AccessStore.save_token`."""
        with self._lock:
            before = self._tokens.get(token.id)
            last_used_s = None if before is None else before.last_used_s
            self._tokens[token.id] = replace(token, last_used_s=last_used_s)
            self._audit(now, actor, "", verb, described(token))

    def note_use(self, used: Mapping[str, float]) -> None:
        """See `access_port.AccessStore.note_use`."""
        with self._lock:
            for identifier, at_s in used.items():
                token = self._tokens.get(identifier)
                if token is not None and (token.last_used_s is None or token.last_used_s < at_s):
                    self._tokens[identifier] = replace(token, last_used_s=at_s)

    def note_refusal(self, *, actor: str, verb: str, detail: str, now: float, experiment: str = "") -> None:
        """See `access_port.AccessStore.note_refusal`."""
        with self._lock:
            self._audit(now, actor, experiment, verb, detail)
