"""The line between the supervisor and its workers: snapshots go down, acknowledgements and counters come up.

One JSON object a line over a Unix socket. The supervisor repeats the current snapshot's version as a heartbeat,
so that a worker knows how fresh its routes are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from anabranch.bandit.snapshot import Snapshot
from anabranch.router.access.authenticator import Rules
from anabranch.router.access.feed import rules_from, rules_text
from anabranch.store import codec

_LINE_BYTES = 16 << 20
_ACCESS = b"access "
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class WorkerReport:
    """What a worker said last.

    Attributes:
        version: Snapshot it routes by.
        counts: Its counters by name.
        metrics: What it counted since its last report, as `Tally.take` made it.
        tokens_used: When tokens were used since its last report, by their ids.
    """

    lane: int
    version: int = 0
    is_serving: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, list[list[Any]]] = field(default_factory=dict)
    tokens_used: Mapping[str, float] = field(default_factory=dict)


class LinkServer:
    """The supervisor's end."""

    def __init__(self, path: Path, *, on_report: Callable[[WorkerReport], None]) -> None:
        self._path = path
        self._on_report = on_report
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._snapshot: Snapshot | None = None
        self._access: bytes | None = None

    async def start(self) -> None:
        """Listen; the socket is for this user only."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=_LINE_BYTES)
        self._path.chmod(0o600)

    def publish(self, snapshot: Snapshot) -> None:
        """Send a snapshot to every worker; later workers get it when they connect."""
        self._snapshot = snapshot
        line = _snapshot_line(snapshot)
        for writer in self._writers:
            writer.write(line)

    def tell_access(self, rules: Rules) -> None:
        """Tell every worker, and later ones, whom to let in, if it is not what they know."""
        line = _ACCESS + rules_text(rules).encode() + b"\n"
        if line != self._access:
            self._access = line
            for writer in self._writers:
                writer.write(line)

    def heartbeat(self) -> None:
        """Tell every worker that the current snapshot is still the current one."""
        for writer in self._writers:
            writer.write(b'{"heartbeat":true}\n')

    async def close(self) -> None:
        """Hang up; workers drain and end."""
        for writer in self._writers:
            writer.close()
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            # Whom to let in comes first: a worker opens its port with the first snapshot.
            if self._access is not None:
                writer.write(self._access)
            if self._snapshot is not None:
                writer.write(_snapshot_line(self._snapshot))
            while line := await reader.readline():
                said: dict[str, Any] = orjson.loads(line)
                self._on_report(WorkerReport(**said))
        except (ConnectionError, ValueError) as error:
            _log.warning("a worker's line broke: %s", error)
        finally:
            self._writers.discard(writer)
            writer.close()


class LinkClient:
    """A worker's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, path: Path) -> LinkClient:
        """Call the supervisor."""
        return cls(*await asyncio.open_unix_connection(path, limit=_LINE_BYTES))

    async def listen(
        self,
        *,
        on_snapshot: Callable[[Snapshot], None],
        on_heartbeat: Callable[[], None],
        on_access: Callable[[Rules], None] = lambda _rules: None,
    ) -> None:
        """Take what comes until the supervisor hangs up."""
        while line := await self._reader.readline():
            if line.startswith(b'{"heartbeat"'):
                on_heartbeat()
            elif line.startswith(_ACCESS):
                on_access(rules_from(line.removeprefix(_ACCESS)))
            else:
                on_snapshot(codec.snapshot_from(line))

    def report(self, report: WorkerReport) -> None:
        """Send what the supervisor should know."""
        said = {
            "lane": report.lane,
            "version": report.version,
            "is_serving": report.is_serving,
            "counts": dict(report.counts),
            "metrics": report.metrics,
            "tokens_used": dict(report.tokens_used),
        }
        self._writer.write(orjson.dumps(said) + b"\n")

    async def flush(self) -> None:
        """Wait until what was reported has left, if the supervisor is still there."""
        with contextlib.suppress(OSError):
            await self._writer.drain()


def _snapshot_line(snapshot: Snapshot) -> bytes:
    return codec.snapshot_text(snapshot).encode() + b"\n"
