"""Whom one worker lets in: rules from the supervisor, a guard before its services, and what it tells of both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

from anabranch.router.access.authenticator import Authenticator, Rules
from anabranch.router.access.guard import Guard, Refusals
from anabranch.router.access.inference import guarded
from anabranch.router.access.rates import FeedbackRates
from anabranch.router.settings import Settings
from anabranch.store.access import Role
from anabranch.wire.seam import Handlers


class WorkerAccess:
    """The access to one worker's services.

    Args:
        settings: Who has to prove who they are, and how much feedback one of them may send.
        loop: Gives the time.
    """

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        # A checked certificate is somebody: what it may, beside models and feedback, a file of identities says.
        self._certificates = Role.FEEDBACK if settings.tls_client_ca is not None else None
        self._nobody = None if settings.must_prove else Role.FEEDBACK
        self._authenticator = Authenticator(self._ruled(Rules()), time.time)
        self._refusals = Refusals(_log_only, loop.time)
        self._rates = FeedbackRates(settings.max_feedback_per_s, loop.time)
        self.guard = Guard(self._authenticator, self._refusals) if settings.must_prove else None

    def follow(self, rules: Rules) -> None:
        """Let in whom the supervisor says from now on."""
        self._authenticator.rules = self._ruled(rules)

    def guarded(self, handlers: Handlers) -> Handlers:
        """The inference service's handlers, behind the guard where there is one."""
        return handlers if self.guard is None else guarded(handlers, self.guard)

    def may_report(self, caller: str, outcomes: int) -> bool:
        """Whether a caller may report this many outcomes now."""
        return self._rates.may_report(caller, outcomes)

    def take_uses(self) -> dict[str, float]:
        """When tokens were used since this was asked last, by their ids."""
        return self._authenticator.take_uses()

    @property
    def refused(self) -> Mapping[str, int]:
        """Calls that were refused because of who made them, by status."""
        return self._refusals.counts

    def _ruled(self, rules: Rules) -> Rules:
        return replace(rules, certificate_role=self._certificates, nobody_role=self._nobody)


def _log_only(_actor: str, _what: str, _why: str) -> None:
    """A worker has no store: its refusals are in the log, which `Refusals` writes itself."""
