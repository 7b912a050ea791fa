"""The control port: a wire, the control service on it, and who is let in; over any store, in any process that has one.

Off loopback it does not open unless it speaks TLS and somebody can prove who they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from anabranch.proto import control_pb2, feedback_pb2
from anabranch.router.access.authenticator import Authenticator, Rules, by_id
from anabranch.router.access.guard import Guard, Refusals
from anabranch.router.access.identities import InvalidIdentities, read_identities
from anabranch.router.complaints import Complaints
from anabranch.router.control.permissions import SERVICE
from anabranch.router.control.service import ControlService
from anabranch.router.control.verbs import Verbs
from anabranch.store.access import Role
from anabranch.store.port import Store
from anabranch.wire.choice import WireKind, new_wire
from anabranch.wire.health import Health, Serving
from anabranch.wire.reflection import Reflection
from anabranch.wire.seam import MIB, Handlers, Limits, Tls

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
LIMITS: Final = Limits(
    max_message_bytes=4 * MIB,
    max_buffered_bytes=64 * MIB,
    max_header_bytes=16 * 1024,
    max_concurrent_streams=64,
    max_connections=512,
    stream_window_bytes=256 * 1024,
    connection_window_bytes=4 * MIB,
)
"""People and a few programs call here: a sixteenth of what the inference port takes is plenty."""
_log = logging.getLogger(__name__)


class Unprotected(Exception):
    """The port would let in everybody who reaches it; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSettings:
    """How the port is opened.

    Attributes:
        host: Address to listen on.
        port: 0 takes a free one.
        tls: Files that make it a TLS port.
        identities: File that gives names in client certificates a role.
        wire: Transport.
        limits: What is accepted.
        drain_s: Time for calls in flight when it closes.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls: Tls | None = None
    identities: Path | None = None
    wire: WireKind = WireKind.NGH2
    limits: Limits = field(default=LIMITS)
    drain_s: float = 5.0

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in LOOPBACK


class ControlPort:
    """Serves the control service.

    Args:
        settings: How.
        store: Over what.
        verbs: What is asked; over the same store.
        wall_clock: Seconds since 1970.
        more: Further services on the port, given the port's guard.
    """

    def __init__(
        self,
        settings: PortSettings,
        store: Store,
        verbs: Verbs,
        *,
        wall_clock: Callable[[], float],
        more: Callable[[Guard], Handlers] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._store = store
        self._wall_clock = wall_clock
        self._wire = new_wire(settings.wire)
        self._health = Health()
        self._authenticator = Authenticator(Rules(), wall_clock)
        self._complaints = Complaints(loop.time)
        self._refusals = Refusals(self._write_refusal, loop.time)
        guard = Guard(self._authenticator, self._refusals)
        self._service = ControlService(verbs, guard, loop)
        self._more = Handlers() if more is None else more(guard)

    @property
    def refused(self) -> dict[str, int]:
        """Calls refused because of who made them, or because too many were made, by status."""
        return {**self._refusals.counts, "resource_exhausted": self._service.desk.refused}

    async def open(self) -> int:
        """Serve; answers the port.

        Raises:
            Unprotected: It is off loopback, and without TLS or anybody who could prove who they are.
            InvalidIdentities: The file of identities has problems.
            OSError: The port is taken, or the TLS files make no server.
        """
        await asyncio.to_thread(self._load)
        self.check_protected()
        handlers = (
            self._service.handlers()
            | self._more
            | self._health.handlers()
            | Reflection([control_pb2.DESCRIPTOR, feedback_pb2.DESCRIPTOR]).handlers()
        )
        port = await self._wire.start(
            host=self._settings.host,
            port=self._settings.port,
            handlers=handlers,
            limits=self._settings.limits,
            tls=self._settings.tls,
        )
        self._health.set(SERVICE, Serving.SERVING)
        return port

    def check_protected(self) -> None:
        """See that not everybody who reaches the port is let in.

        Raises:
            Unprotected: They would be.
        """
        settings, rules = self._settings, self._authenticator.rules
        if settings.is_loopback:
            return
        if settings.tls is None:
            raise Unprotected(
                f"the control port on {settings.host} is off loopback and has no TLS: give --tls-cert and --tls-key, or one of {', '.join(LOOPBACK)}"
            )
        now = self._wall_clock()
        has_tokens = any(token.is_live(now) for token in rules.tokens.values())
        has_identities = bool(rules.identities) and settings.tls.client_ca_file is not None
        if not (has_tokens or has_identities):
            raise Unprotected(
                f"the control port on {settings.host} is off loopback and nobody could prove who they are: "
                "make a token with `anabranch token create NAME --role admin`, or give --identities and --tls-client-ca"
            )

    def refresh(self) -> None:
        """Take up tokens and identities as they are now, and keep when tokens were used; blocks."""
        try:
            self._load()
        except InvalidIdentities as error:
            self._complaints.say("the file of identities", f"what it said before stays in force: {error}")
        self.keep_uses(self._authenticator.take_uses())

    def keep_uses(self, used: dict[str, float]) -> None:
        """Keep when tokens were used, here or elsewhere; blocks."""
        if used:
            self._store.access.note_use(used)

    async def close(self) -> None:
        """Drain, then end."""
        self._health.shut_down()
        self._service.shut_down()
        await self._wire.drain(self._settings.drain_s)
        self._service.close()

    def _load(self) -> None:
        rules = load_rules(self._store, self._settings.identities)
        # One token, were it revoked, is a wish to be asked for tokens: the door does not fall open with the last one.
        is_open = self._settings.is_loopback and not rules.tokens and not rules.identities
        self._authenticator.rules = replace(rules, nobody_role=Role.ADMIN if is_open else None)

    def _write_refusal(self, actor: str, what: str, why: str) -> None:
        now = self._wall_clock()

        def write() -> None:
            self._store.access.note_refusal(actor=actor, verb=what, detail=why, now=now)

        self._service.desk.run(write, lambda _: None, lambda error: _log.error("not audited: %s", error))


def load_rules(store: Store, identities: Path | None) -> Rules:
    """Tokens and identities as they are now; blocks.

    Raises:
        InvalidIdentities: The file of identities has problems.
    """
    return Rules(
        tokens=by_id(store.access.tokens()),
        identities={} if identities is None else read_identities(identities),
    )
