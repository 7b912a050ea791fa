"""What `serve` was asked for: one frozen value, made once, handed to every process of the tree."""

from __future__ import annotations

import fcntl
import os
import socket
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from anabranch.router.classes import target_problems
from anabranch.router.logs import LogFormat
from anabranch.store.journal_upkeep import KEEP_BYTES as JOURNAL_BYTES
from anabranch.store.journal_upkeep import KEEP_DAYS as JOURNAL_DAYS
from anabranch.store.upkeep_port import KEEP_DAYS
from anabranch.wire.choice import WireKind
from anabranch.wire.listen import tls_context
from anabranch.wire.seam import MIB, Limits, Tls

LEAST_LEASE_TICKS = 3
"""Rounds that a lease must outlast: one that is late would cost the lead."""


LEAST_KEY_BYTES = 32


class InvalidSettings(ValueError):
    """The settings have problems; the message lists all of them."""


class Clients(StrEnum):
    """Who is served on the inference port."""

    ANYONE = "anyone"
    KNOWN = "known"


LOOPBACK = ("127.0.0.1", "localhost", "::1")
# gRPC's own limit in most clients.
_LARGEST_MESSAGE = 2**31 - 1
_LEAST_SILENCE_S = 2.0


def lease_problem(lease_s: float, tick_s: float) -> str:
    """What is said of a lease that a late round would cost."""
    return f"lease_s is {lease_s:g} and tick_s {tick_s:g}: the lease must last at least {LEAST_LEASE_TICKS} ticks"


class ControllerPlace(StrEnum):
    """Where the experiments of this server are moved on."""

    INSIDE = "inside"
    ELSEWHERE = "elsewhere"


MOST_WAITING: Final = 256
"""Requests that wait for a variant: some times what a busy one answers before a client has given up."""


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
        max_message_bytes: Largest request accepted, after decompression.
        class_targets_ms: By class of priority, within what 99 of 100 of its requests should be answered, where that is
            not the default of `router.classes`.
        forecast: Whether the requests of the next minutes are forecast, for the metrics.
        metrics_port: Port of `/metrics`, plain HTTP and read only; 0 takes a free one, None opens none.
        metrics_host: Where it listens.
        log_format: How every process of the server writes its log.
        trace_share: Share of the requests without a trace of their own that get a span; 0 sends none at all.
        otlp_endpoint: Base address of the collector, OTLP over HTTP; empty: what OTEL_EXPORTER_OTLP_ENDPOINT says.
        control_port: Port of the control service; 0 takes a free one, None opens none.
        control_host: Where it listens.
        identities: File that gives names in client certificates a role.
        clients: Who is served on the inference port; beyond loopback, only who is known.
        max_feedback_per_s: Outcomes a second that one caller may report to one worker, in the long run.
        wire_limits: By name, limits of the inference port that are not the defaults of `wire.seam.Limits`.
        tls_certificate: The port's certificate, followed by its chain, as PEM; absent, the port is plain.
        tls_key: The certificate's private key, as PEM.
        tls_client_ca: Authorities of client certificates, as PEM; with it, a client must show one.
        candidate_timeout_s: A candidate that has not answered for this long is stood in for by the baseline, also
            where the request has no deadline, or a later one.
        assignment_key_file: The key that all replicas of the store have; absent, one is made in the state folder.
        tick_s: Time between two ticks of the controller.
        controller: Whether this server's controller may lead, or another process does.
        lease_s: Time after the leading controller's last round after which another one leads.
        keep_days: How long single requests of an ended experiment are remembered.
        journal_days: How long raw outcomes stay in the journal once they are counted.
        journal_bytes: How many bytes of them stay.
        snapshot_max_age_s: Without news for this long a worker serves baselines only.
        drain_s: Time for requests in flight when a worker ends.
        worker_silence_s: A worker that gives no sign of life for this long is killed and replaced.
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
    class_targets_ms: dict[str, float] = field(default_factory=dict)
    forecast: bool = False
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    log_format: LogFormat = LogFormat.TEXT
    trace_share: float = 0.0
    otlp_endpoint: str = ""
    control_port: int | None = None
    control_host: str = "127.0.0.1"
    identities: Path | None = None
    clients: Clients = Clients.ANYONE
    # Some times what one worker answers; a program that sends labels in bulk is told to slow down.
    max_feedback_per_s: float = 20_000.0
    wire_limits: dict[str, float] = field(default_factory=dict)
    max_message_bytes: int = 64 * MIB
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    max_batch_size: int = 16
    max_queue_size: int = MOST_WAITING
    max_queue_delay_microseconds: int = 0
    # Longer than a batch of any in-process model takes; a client without a deadline waits no longer for a hung one.
    candidate_timeout_s: float = 10.0
    assignment_key_file: Path | None = None
    tick_s: float = 1.0
    controller: ControllerPlace = ControllerPlace.INSIDE
    # Several rounds of a busy machine; until then an experiment of a dead controller stands still.
    lease_s: float = 10.0
    keep_days: float = KEEP_DAYS
    journal_days: float = JOURNAL_DAYS
    journal_bytes: int = JOURNAL_BYTES
    snapshot_max_age_s: float = 60.0
    drain_s: float = 10.0
    # A worker reports once a second; a busy machine may hold it up for some.
    worker_silence_s: float = 15.0

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
        if self.candidate_timeout_s <= 0:
            problems.append(f"candidate_timeout_s is {self.candidate_timeout_s:g}, must be positive")
        for name in ("port", "metrics_port"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 65535:
                problems.append(f"{name} is {value}, must be from 0 to 65535")
        if self.tick_s <= 0 or self.snapshot_max_age_s <= self.tick_s:
            problems.append(
                f"tick_s is {self.tick_s} and snapshot_max_age_s {self.snapshot_max_age_s}: both positive, the age larger"
            )
        if self.keep_days <= 0:
            problems.append(f"keep_days is {self.keep_days:g}, must be positive")
        if self.journal_days < 0 or self.journal_bytes < 0:
            problems.append(
                f"journal_days is {self.journal_days:g} and journal_bytes {self.journal_bytes}: neither may be negative"
            )
        if self.lease_s < LEAST_LEASE_TICKS * self.tick_s:
            problems.append(lease_problem(self.lease_s, self.tick_s))
        if not 1 <= self.max_message_bytes <= _LARGEST_MESSAGE:
            problems.append(
                f"max_message_bytes is {self.max_message_bytes}, must be from 1 to {_LARGEST_MESSAGE}"
            )
        if self.worker_silence_s < _LEAST_SILENCE_S:
            problems.append(
                f"worker_silence_s is {self.worker_silence_s:g}, must be at least {_LEAST_SILENCE_S:g}: a worker reports once a second"
            )
        if not 0.0 <= self.trace_share <= 1.0:
            problems.append(f"trace_share is {self.trace_share:g}, must be from 0 to 1")
        if self.otlp_endpoint and not self.otlp_endpoint.startswith(("http://", "https://")):
            problems.append(f"otlp_endpoint is {self.otlp_endpoint!r}, must begin with http:// or https://")
        if self.max_feedback_per_s <= 0:
            problems.append(f"max_feedback_per_s is {self.max_feedback_per_s:g}, must be positive")
        problems += target_problems(self.class_targets_ms)
        if self.forecast and self.metrics_port is None:
            problems.append(
                "a forecast is asked for, and no metrics port that would tell it: give --metrics-port"
            )
        problems += self._tls_problems() + self._limit_problems()
        if problems:
            raise InvalidSettings("\n".join(problems))

    def _tls_problems(self) -> list[str]:
        """What is wrong with the files of TLS, and with an address that needs them."""
        files = {
            "tls_certificate": self.tls_certificate,
            "tls_key": self.tls_key,
            "tls_client_ca": self.tls_client_ca,
        }
        problems = [
            f"{name} is {path}, which is no file"
            for name, path in files.items()
            if path is not None and not path.is_file()
        ]
        if (self.tls_certificate is None) is not (self.tls_key is None):
            problems.append("tls_certificate and tls_key go together: give both, or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            problems.append(
                "tls_client_ca is given without a certificate of the port's own: give tls_certificate and tls_key"
            )
        if self.identities is not None and not self.identities.is_file():
            problems.append(f"identities is {self.identities}, which is no file")
        if self.identities is not None and self.tls_client_ca is None:
            problems.append("identities is given, and no client shows a certificate: give tls_client_ca")
        for name, host in (("host", self.host), ("control_host", self.control_host)):
            if host not in LOOPBACK and self.tls_certificate is None:
                problems.append(
                    f"{name} is {host!r}: beyond loopback only TLS is spoken, to callers who prove who they are: "
                    f"give --tls-cert and --tls-key, or one of {', '.join(LOOPBACK)}"
                )
        return problems

    def _limit_problems(self) -> list[str]:
        """What is wrong with the limits that are not the defaults."""
        known = [each.name for each in fields(Limits) if each.name != "max_message_bytes"]
        if strangers := sorted(self.wire_limits.keys() - set(known)):
            return [f"limit {name!r} is unknown, must be one of {', '.join(known)}" for name in strangers]
        try:
            _ = self.limits if self.wire_limits else None
        except ValueError as error:
            return [str(error)]
        return []

    @property
    def must_prove(self) -> bool:
        """Whether callers of the inference port must prove who they are."""
        return self.clients is Clients.KNOWN or self.host not in LOOPBACK

    @property
    def tls(self) -> Tls | None:
        """The files that make the port a TLS port; None for a plain one."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return Tls(
            certificate_file=self.tls_certificate, key_file=self.tls_key, client_ca_file=self.tls_client_ca
        )

    @property
    def limits(self) -> Limits:
        """What the port accepts."""
        default = Limits(
            max_message_bytes=self.max_message_bytes,
            # Room for some of the largest requests at once.
            max_buffered_bytes=max(Limits().max_buffered_bytes, 4 * self.max_message_bytes),
        )
        given: dict[str, Any] = {
            name: value if name.endswith("_s") else int(value) for name, value in self.wire_limits.items()
        }
        return replace(default, **given)

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
        return self.assignment_key_file or self.state / "assignment.key"

    @property
    def place_file(self) -> Path:
        """The name of this state folder among those of other replicas."""
        return self.state / "place.id"

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


def check_tls(settings: Settings) -> None:
    """See that the files of TLS make a server, which each worker reads for itself.

    Raises:
        InvalidSettings: If they do not.
    """
    if settings.tls is None:
        return
    try:
        tls_context(settings.tls)
    except OSError as error:
        raise InvalidSettings(
            f"{settings.tls_certificate}, {settings.tls_key} and {settings.tls_client_ca or 'no authority of clients'} "
            f"make no TLS server: {error}"
        ) from error


_SETTINGS: TypeAdapter[Settings] = TypeAdapter(Settings)


def settings_text(settings: Settings) -> str:
    """The settings as JSON, for a child process."""
    return _SETTINGS.dump_json(settings).decode()


def settings_from(text: str) -> Settings:
    """The settings in a JSON text."""
    return _SETTINGS.validate_json(text)


def assignment_key(settings: Settings) -> bytes:
    """This installation's key of assignment ids: the given one, or made at first use and readable by this user only.

    Raises:
        InvalidSettings: If the given one cannot be a key.
    """
    path = settings.key_file
    if settings.assignment_key_file is not None:
        return _given_key(path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(32))
    return path.read_bytes()


def _given_key(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except OSError as error:
        raise InvalidSettings(
            f"assignment_key_file is {path}, which cannot be read: {error.strerror}"
        ) from error
    if len(key) < LEAST_KEY_BYTES:
        raise InvalidSettings(
            f"assignment_key_file is {path}, which holds {len(key)} bytes, must be at least {LEAST_KEY_BYTES} random ones: "
            "copy assignment.key from the state folder of another replica"
        )
    return key


def place_of(settings: Settings) -> str:
    """What tells this state folder from every other one; made at first use."""
    try:
        descriptor = os.open(settings.place_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return settings.place_file.read_text()
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{socket.gethostname()}-{os.urandom(4).hex()}")
    return settings.place_file.read_text()
