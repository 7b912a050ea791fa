"""Whom workers let in, as one line of JSON from the supervisor, which alone reads the store: digests, and no secret."""

from __future__ import annotations

from pydantic import TypeAdapter

from anabranch.router.access.authenticator import Rules

_RULES: TypeAdapter[Rules] = TypeAdapter(Rules)


def rules_text(rules: Rules) -> str:
    """Rules as one line."""
    return _RULES.dump_json(rules).decode()


def rules_from(text: str | bytes) -> Rules:
    """The rules in a line."""
    return _RULES.validate_json(text)
