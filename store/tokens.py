"""API tokens: 256 random bits behind a prefix that secret scanners find; what is kept is their digest.

A token's text is `anabranch_`, its public id, `_`, the secret, and a checksum by which a scanner tells a token from a
look-alike without asking anybody. As the secret is random and long, one SHA-256 is as good as a slow hash: there is
nothing to guess.
"""

from __future__ import annotations

import hmac
import re
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from anabranch.store.access import Principal, Role

PREFIX: Final = "anabranch_"
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
DEFAULT_LIFE_S: Final = 90 * 86_400.0
"""A forgotten token ends by itself; 90 days is what most forges suggest."""
_TEXT: Final = re.compile(r"anabranch_([0-9a-f]{12})_([A-Za-z0-9_-]{43})([0-9a-f]{8})")
# What an unknown id is compared with, so that it takes as long as a known one.
_NOBODY: Final = sha256(b"nobody").hexdigest()


class BadToken(Exception):
    """The token is not valid; the text says why, for the audit log and never for the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as kept: everything but its secret.

    Attributes:
        id: Public part of its text, 12 hexadecimal digits.
        name: Who uses it; several ids have one name while it is rotated.
        models: The only models it is for; empty means every one.
        digest: SHA-256 of its text, hexadecimal.
        expires_s: When it ends by itself; None never.
        revoked_s: When it was revoked; None when it was not.
        last_used_s: When it was used last, within about a minute; None before the first time.
    """

    id: str
    name: str
    role: Role
    models: tuple[str, ...]
    digest: str
    created_s: float
    created_by: str
    expires_s: float | None = None
    revoked_s: float | None = None
    last_used_s: float | None = None

    def is_live(self, now: float) -> bool:
        """Whether it opens anything now."""
        return self.revoked_s is None and (self.expires_s is None or now < self.expires_s)

    def standing(self, now: float) -> str:
        """Where it stands, in a word."""
        if self.revoked_s is not None:
            return "revoked"
        return "live" if self.is_live(now) else "expired"

    def ended_by(self, at_s: float) -> Token:
        """The token, ending then if it does not end before."""
        return replace(self, expires_s=at_s if self.expires_s is None else min(at_s, self.expires_s))


def issue(
    *,
    name: str,
    role: Role,
    models: Iterable[str],
    now: float,
    expires_s: float | None,
    created_by: str,
    entropy: Callable[[int], bytes],
) -> tuple[Token, str]:
    """Make a token; answers what to keep, and the text, which nobody keeps but its user.

    Args:
        name: Who will use it: lower-case letters, digits, `.`, `_` and `-`.
        role: What for.
        models: The only models it is for; empty means every one.
        now: When.
        expires_s: When it ends; None never.
        created_by: Who makes it.
        entropy: Gives that many random bytes, such as `secrets.token_bytes`.

    Raises:
        ValueError: The name is not one, or the end is not ahead.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"token name {name!r} must be 1 to 63 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    if expires_s is not None and expires_s <= now:
        raise ValueError("the token would be expired from the start: give a longer life")
    identifier = entropy(6).hex()
    secret = urlsafe_b64encode(entropy(32)).decode().rstrip("=")
    open_part = f"{PREFIX}{identifier}_{secret}"
    text = f"{open_part}{_checksum(open_part)}"
    kept = Token(
        id=identifier,
        name=name,
        role=role,
        models=tuple(sorted(set(models))),
        digest=digest(text),
        created_s=now,
        created_by=created_by,
        expires_s=expires_s,
    )
    return kept, text


def digest(text: str) -> str:
    """What is kept of a token's text."""
    return sha256(text.encode()).hexdigest()


def looks_like_token(text: str) -> bool:
    """Whether a text is a token of ours, known or not: what a secret scanner asks."""
    match = _TEXT.fullmatch(text)
    return match is not None and _checksum(text[:-8]) == match[3]


def find_token(tokens: Callable[[str], Token | None], text: str, now: float) -> Token:
    """The live token of a text.

    Args:
        tokens: The token of an id.
        text: What was presented.
        now: When.

    Raises:
        BadToken: It is malformed, unknown, forged, expired or revoked.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise BadToken("malformed")
    kept = tokens(match[1])
    # Compared in any case, in constant time: neither the id nor a prefix of the secret can be felt out.
    is_same = hmac.compare_digest(digest(text), _NOBODY if kept is None else kept.digest)
    if kept is None:
        raise BadToken("unknown id")
    if not is_same:
        raise BadToken(f"wrong secret for token {kept.name} ({kept.id})")
    if not kept.is_live(now):
        raise BadToken(f"token {kept.name} ({kept.id}) is {kept.standing(now)}")
    return kept


def principal_of(token: Token) -> Principal:
    """Whom a token stands for."""
    return Principal(actor=f"token:{token.name}", role=token.role, models=frozenset(token.models))


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
