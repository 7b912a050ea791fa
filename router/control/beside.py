"""The control port of a server: beside its controller, over the same store, and a second door for feedback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from importlib.metadata import version

from anabranch.bandit.snapshot import Snapshot
from anabranch.router.access.authenticator import Rules
from anabranch.router.access.guard import Guard
from anabranch.router.access.identities import InvalidIdentities
from anabranch.router.access.rates import Rates
from anabranch.router.assignment_id import AssignmentIds
from anabranch.router.complaints import Complaints
from anabranch.router.control.port import ControlPort, PortSettings, load_rules
from anabranch.router.control.verbs import Served, Verbs
from anabranch.router.feedback import FeedbackService
from anabranch.router.recorder import Recorder
from anabranch.router.routes import Routes
from anabranch.router.settings import InvalidSettings, Settings, assignment_key
from anabranch.store.journal import JournalWriter
from anabranch.store.port import Store
from anabranch.wire.seam import Handlers


class ServerControl:
    """What a supervisor has of its control port, also where none is opened: whom workers let in.

    Args:
        settings: How the server runs.
        store: Over what.
        served: What is served now.
        tell_workers: Takes whom workers are to let in; called on the loop.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        served: Callable[[], Served],
        tell_workers: Callable[[Rules], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._served = served
        self._tell_workers = tell_workers
        self._port: ControlPort | None = None
        self._journal: JournalWriter | None = None
        self._routes: Routes | None = None
        self._used: dict[str, float] = {}
        self._complaints = Complaints(asyncio.get_running_loop().time)
        self.address: str | None = None

    @property
    def refused(self) -> dict[str, int]:
        """Calls that the port refused because of who made them, or because too many were made, by status."""
        return {} if self._port is None else self._port.refused

    async def open(self) -> None:
        """Open the port, if one was asked for, and tell workers whom to let in.

        Raises:
            InvalidSettings: Nobody could prove who they are where everybody has to.
            InvalidIdentities: The file of identities has problems.
            Unprotected: Everybody who reaches the control port would be let in.
            OSError: The port is taken.
        """
        settings = self._settings
        rules = await asyncio.to_thread(load_rules, self._store, settings.identities)
        if settings.must_prove and settings.tls_client_ca is None:
            now = time.time()
            if not any(token.is_live(now) for token in rules.tokens.values()):
                raise InvalidSettings(
                    "callers of the inference port must prove who they are, and nobody could: make a token with "
                    "`anabranch token create NAME --role feedback`, or give --tls-client-ca"
                )
        self._tell_workers(rules)
        if settings.control_port is None:
            return
        port = PortSettings(
            host=settings.control_host,
            port=settings.control_port,
            tls=settings.tls,
            identities=settings.identities,
            wire=settings.wire,
        )
        lane = await asyncio.to_thread(self._store.next_lane)
        self._journal = JournalWriter(settings.journal, lane)
        verbs = Verbs(self._store, served=self._served, wall_clock=time.time, version=version("anabranch"))
        self._port = ControlPort(
            port,
            self._store,
            verbs,
            wall_clock=time.time,
            more=lambda guard: self._feedback(guard, lane),
        )
        number = await self._port.open()
        host = f"[{port.host}]" if ":" in port.host else port.host
        self.address = f"{host}:{number}"

    async def refresh(self) -> None:
        """Take up tokens and identities as they are now; once a tick."""
        used, self._used = self._used, {}
        if self._port is not None:
            await asyncio.to_thread(self._port.refresh)
        if used:
            await asyncio.to_thread(self._store.access.note_use, used)
        if self._settings.must_prove:
            try:
                rules = await asyncio.to_thread(load_rules, self._store, self._settings.identities)
            except InvalidIdentities as error:
                self._complaints.say("the file of identities", f"what it said before stays in force: {error}")
            else:
                self._tell_workers(rules)
        if self._routes is not None:
            self._routes.heard()

    def token_uses(self, used: dict[str, float]) -> None:
        """A worker saw tokens used."""
        self._used |= used

    def publish(self, snapshot: Snapshot) -> None:
        """Check feedback by a snapshot from now on."""
        if self._routes is not None:
            self._routes.publish(snapshot)

    async def close(self) -> None:
        """Drain the port, and end the journal of its feedback."""
        if self._port is not None:
            await self._port.close()
        if self._journal is not None:
            self._journal.close()

    def _feedback(self, guard: Guard, lane: int) -> Handlers:
        """Feedback is taken here too: labels come from other machines and in batches."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        assert self._journal is not None
        self._routes = Routes(settings.baselines, loop_time=loop.time, max_age_s=settings.snapshot_max_age_s)
        rates = Rates(per_s=settings.max_feedback_per_s, burst=max(10_000.0, 2 * settings.max_feedback_per_s))
        return FeedbackService(
            ids=AssignmentIds(assignment_key(settings)),
            routes=self._routes,
            recorder=Recorder(self._journal, lane),
            wall_clock=time.time,
            guard=guard,
            may_report=lambda caller, outcomes: rates.take(caller, outcomes, loop.time()),
        ).handlers()
