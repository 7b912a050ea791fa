"""What `serve` was asked for: one frozen value, made once, handed to every process of the tree."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from anabranch.wire.choice import WireKind


class InvalidSettings(ValueError):
    """The settings have problems; the message lists all of them."""


LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server runs.

    Attributes:
        models: Folder of built variants, `<model>/<variant>/manifest.json`.
        state: Folder of the journal, the key and the default database.
        store: Database URL.
        baselines: By model, the variant that serves without an experiment; for the others it is the reference.
        port: Inference port; 0 takes a free one.
        workers: Processes that share the port.
        threads: Threads of one worker that run models.
        tick_s: Time between two ticks of the controller.
        snapshot_max_age_s: Without news for this long a worker serves baselines only.
        drain_s: Time for requests in flight when a worker ends.
    """

    models: Path
    state: Path = Path(".state")
    store: str = ""
    baselines: dict[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8001
    workers: int = 1
    threads: int = 0
    wire: WireKind = WireKind.NGH2
    max_batch_size: int = 16
    max_queue_size: int = 256
    max_queue_delay_microseconds: int = 0
    tick_s: float = 1.0
    snapshot_max_age_s: float = 60.0
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, all at once."""
        at_least_1 = ("workers", "max_batch_size", "max_queue_size")
        at_least_0 = ("threads", "max_queue_delay_microseconds", "drain_s")
        problems = [
            f"{name} is {getattr(self, name)}, must be at least {least}"
            for least, names in ((1, at_least_1), (0, at_least_0))
            for name in names
            if getattr(self, name) < least
        ]
        if not 0 <= self.port <= 65535:
            problems.append(f"port is {self.port}, must be from 0 to 65535")
        if self.tick_s <= 0 or self.snapshot_max_age_s <= self.tick_s:
            problems.append(
                f"tick_s is {self.tick_s} and snapshot_max_age_s {self.snapshot_max_age_s}: both positive, the age larger"
            )
        if self.host not in LOOPBACK:
            problems.append(
                f"host is {self.host!r}: without TLS and tokens only loopback is served, use one of {', '.join(LOOPBACK)}"
            )
        if problems:
            raise InvalidSettings("\n".join(problems))

    @property
    def store_url(self) -> str:
        """The database: the given one, or a file beside the journal."""
        return self.store or f"sqlite:///{self.state / 'anabranch.db'}"

    @property
    def journal(self) -> Path:
        """Folder of the journal."""
        return self.state / "journal"

    @property
    def socket(self) -> Path:
        """Where workers and supervisor meet."""
        return self.state / "workers.sock"

    @property
    def lock_file(self) -> Path:
        """Held by the server that uses the state folder."""
        return self.state / "server.lock"

    @property
    def key_file(self) -> Path:
        """The key of assignment ids."""
        return self.state / "assignment.key"

    @property
    def model_threads(self) -> int:
        """Threads of one worker that run models: the given number, or a fair share of the cores."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.workers)


class StateInUse(Exception):
    """Another server uses this state folder; the message says which."""


def hold_state(settings: Settings) -> int:
    """Take the state folder for this process; the lock goes with the process, however it ends.

    Raises:
        StateInUse: If another process holds it.
    """
    descriptor = os.open(settings.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 32).decode() or "unknown"
        os.close(descriptor)
        raise StateInUse(
            f"{settings.state} is in use by the server with process id {holder}: stop it, or give another --state"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


_SETTINGS: TypeAdapter[Settings] = TypeAdapter(Settings)


def settings_text(settings: Settings) -> str:
    """The settings as JSON, for a child process."""
    return _SETTINGS.dump_json(settings).decode()


def settings_from(text: str) -> Settings:
    """The settings in a JSON text."""
    return _SETTINGS.validate_json(text)


def assignment_key(settings: Settings) -> bytes:
    """This installation's key of assignment ids, made at first use and readable by this user only."""
    path = settings.key_file
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(32))
    return path.read_bytes()
