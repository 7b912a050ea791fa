"""In front of a service: lets a call through as somebody who may make it, or refuses it and has that written down."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from anabranch.router.access.authenticator import Authenticator, Unauthenticated, printable
from anabranch.router.access.rates import Rates
from anabranch.store.access import Permission, Principal
from anabranch.wire.seam import Call, Status

_log = logging.getLogger(__name__)
_AUDITED_PER_S: Final = 0.2
_AUDITED_AT_ONCE: Final = 20
_EVERYBODY: Final = "everybody"


class NotAllowed(Exception):
    """The caller's role, or the models it is for, do not allow this."""


class Refusals:
    """Writes refused attempts down: each, until they come too fast, then only their number.

    Args:
        write: Writes one into an audit log: who, what, why.
        loop_time: The event loop's clock, in seconds.

    Attributes:
        counts: Refused attempts by status.
    """

    def __init__(self, write: Callable[[str, str, str], None], loop_time: Callable[[], float]) -> None:
        self._write = write
        self._loop_time = loop_time
        self._each = Rates(per_s=_AUDITED_PER_S, burst=_AUDITED_AT_ONCE)
        self._all = Rates(per_s=5 * _AUDITED_PER_S, burst=5 * _AUDITED_AT_ONCE)
        self._unsaid = 0
        self.counts: Counter[str] = Counter()

    def note(self, actor: str, what: str, why: str, status: Status) -> None:
        """An attempt was refused.

        Args:
            actor: Who tried, as far as known.
            what: The method.
            why: The reason.
            status: What it was refused with.
        """
        self.counts[status.name.lower()] += 1
        now = self._loop_time()
        if not (self._each.take(actor, 1, now) and self._all.take(_EVERYBODY, 1, now)):
            self._unsaid += 1
            return
        unsaid, self._unsaid = self._unsaid, 0
        more = f" (and {unsaid} more since the last line)" if unsaid else ""
        _log.warning("refused %s to %s: %s%s", what, actor, why, more)
        self._write(actor, f"refused {what}", f"{why}{more}")


class Guard:
    """Decides over the calls of one port.

    Args:
        authenticator: Tells who calls.
        refusals: Where what is refused goes.
    """

    def __init__(self, authenticator: Authenticator, refusals: Refusals) -> None:
        self._authenticator = authenticator
        self._refusals = refusals

    def admit(self, call: Call, permission: Permission | None) -> Principal | None:
        """Who calls, if they may; None after the call was refused.

        Args:
            call: The call.
            permission: What it takes; None takes nothing but to be known.
        """
        try:
            principal = self._authenticator.authenticate(call)
        except Unauthenticated as error:
            self._refusals.note(error.claimed, short_name(call.method), error.reason, Status.UNAUTHENTICATED)
            call.fail(Status.UNAUTHENTICATED, str(error))
            return None
        if permission is not None and not principal.may(permission):
            self.refuse(
                call,
                principal,
                f"the role {principal.role} has no permission to {permission}: it takes another role",
            )
            return None
        return principal

    def check_still(self, call: Call) -> None:
        """See that a caller who was admitted would be again.

        Raises:
            NotAllowed: The token was revoked, or has expired, since.
        """
        try:
            self._authenticator.authenticate(call)
        except Unauthenticated as error:
            raise NotAllowed(str(error)) from error

    def refuse(self, call: Call, principal: Principal, why: str) -> None:
        """End a call of somebody known who may not make it."""
        self._refusals.note(
            principal.actor, short_name(call.method), printable(why), Status.PERMISSION_DENIED
        )
        call.fail(Status.PERMISSION_DENIED, why)


def short_name(method: str) -> str:
    """A method without its package and service."""
    return printable(method.rpartition("/")[2])
