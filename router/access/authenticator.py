"""Who a caller is: by a token, else by a client certificate, else nobody, where nobody is let in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from anabranch.store.access import Principal, Role
from anabranch.store.tokens import BadToken, Token, find_token, principal_of
from anabranch.wire.seam import Call

_SCHEME: Final = "bearer "
_MOST_NAME: Final = 200
# A use is told on when it is this much newer than the last one that was.
_USE_S: Final = 60.0


class Unauthenticated(Exception):
    """The caller is not known. The text is for the client; `reason` is for the audit log.

    Args:
        told: What the client is told, the same for every token that is not valid.
        reason: Why.
        claimed: What is known of who tried, such as the address.
    """

    def __init__(self, told: str, reason: str, claimed: str) -> None:
        super().__init__(told)
        self.reason = reason
        self.claimed = claimed


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Whom one port lets in; replaced whole when something changes.

    Attributes:
        tokens: By id, every token that ever was.
        identities: By the name in a certificate, whom it stands for.
        certificate_role: Role of a checked certificate that `identities` does not name; None lets it not in.
        nobody_role: Role of a caller who proves nothing; None lets it not in.
    """

    tokens: Mapping[str, Token] = field(default_factory=dict)
    identities: Mapping[str, Principal] = field(default_factory=dict)
    certificate_role: Role | None = None
    nobody_role: Role | None = None


class Authenticator:
    """Tells who the caller of a call is.

    Args:
        rules: Whom to let in.
        wall_clock: Seconds since 1970.
    """

    def __init__(self, rules: Rules, wall_clock: Callable[[], float]) -> None:
        self.rules = rules
        self._wall_clock = wall_clock
        self._used: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def authenticate(self, call: Call) -> Principal:
        """Who calls.

        Raises:
            Unauthenticated: Nobody who is known.
        """
        for name, value in call.metadata:
            if name == "authorization":
                return self._by_token(str(value), call)
        return self._without_token(call)

    def take_uses(self) -> dict[str, float]:
        """When tokens were used, by their ids, since this was asked last; at most one use a minute each."""
        used, self._used = self._used, {}
        self._told |= used
        return used

    def _by_token(self, given: str, call: Call) -> Principal:
        now = self._wall_clock()
        # Whoever shows a token means it: a bad one is refused where none is needed, too.
        try:
            if given[: len(_SCHEME)].lower() != _SCHEME:
                raise BadToken("no bearer token")
            token = find_token(self.rules.tokens.get, given[len(_SCHEME) :].strip(), now)
        except BadToken as error:
            raise Unauthenticated(
                "the token is not valid here: it is unknown, expired or revoked; `anabranch token create` makes one",
                str(error),
                _address(call),
            ) from None
        if now - self._told.get(token.id, 0.0) > _USE_S:
            self._used[token.id] = now
        return principal_of(token)

    def _without_token(self, call: Call) -> Principal:
        rules = self.rules
        name = call.peer_identity
        if name is not None:
            known = rules.identities.get(name)
            if known is not None:
                return known
            if rules.certificate_role is not None:
                return Principal(actor=f"certificate:{printable(name)}", role=rules.certificate_role)
        if rules.nobody_role is not None:
            return Principal(actor=f"anonymous {_address(call)}", role=rules.nobody_role)
        claimed = _address(call) if name is None else f"certificate:{printable(name)} {_address(call)}"
        raise Unauthenticated(
            "this server wants to know who calls: send the metadata `authorization: Bearer TOKEN`, or a client certificate that it knows",
            "no token" if name is None else "no token, and the certificate's name has no role",
            claimed,
        )


def by_id(tokens: Iterable[Token]) -> dict[str, Token]:
    """Tokens by their ids."""
    return {token.id: token for token in tokens}


def printable(text: str) -> str:
    """A text from outside as one short line: nothing in it can end a log line or colour a terminal."""
    shown = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
    return shown if len(shown) <= _MOST_NAME else f"{shown[:_MOST_NAME]}…"


def _address(call: Call) -> str:
    """The peer without its port, which says nothing of who it is."""
    return printable(call.peer.rpartition(":")[0] or call.peer)
