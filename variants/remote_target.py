"""Where a remote variant is served, what was checked there and when, and how much of it is used. Part of its manifest."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from anabranch.variants.errors import VariantError
from anabranch.wire.client import ClientTls, Target


class RemoteEngine(StrEnum):
    """What runs a variant that this installation did not build."""

    REMOTE = "remote"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDetection:
    """When a server that fails is left alone for a while. Envoy's fields and defaults.

    Args:
        consecutive_errors: Failures in a row that eject it: Envoy's `consecutive_5xx`, by gRPC's statuses.
        interval_s: Each such time without an ejection makes the next one shorter again.
        base_ejection_time_s: The first ejection; the n-th in close succession lasts n times as long.
        max_ejection_time_s: The longest ejection.

    Source:
        https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/cluster/v3/outlier_detection.proto
    """

    consecutive_errors: int = 5
    interval_s: float = 10.0
    base_ejection_time_s: float = 30.0
    max_ejection_time_s: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        problems = [
            f"{name} is {getattr(self, name)}, must be {what}"
            for name, what, is_right in (
                ("consecutive_errors", "at least 1", self.consecutive_errors >= 1),
                ("interval_s", "positive", self.interval_s > 0),
                ("base_ejection_time_s", "positive", self.base_ejection_time_s > 0),
                (
                    "max_ejection_time_s",
                    "at least base_ejection_time_s",
                    self.max_ejection_time_s >= self.base_ejection_time_s,
                ),
            )
            if not is_right
        ]
        if problems:
            raise VariantError("; ".join(problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTls:
    """How the server proves who it is.

    Args:
        ca: File of authorities in the variant's folder; empty takes the system's.
        server_name: The name in the server's certificate; empty takes the target's host.
        certificate: Absolute path of our own certificate, for mutual TLS; empty sends none.
        key: Absolute path of its private key.
    """

    ca: str = ""
    server_name: str = ""
    certificate: str = ""
    key: str = ""

    def client_tls(self, folder: Path) -> ClientTls:
        """The same, for the wire.

        Args:
            folder: The variant's folder.
        """
        return ClientTls(
            ca_file=folder / self.ca if self.ca else None,
            certificate_file=Path(self.certificate) if self.certificate else None,
            key_file=Path(self.key) if self.key else None,
            server_name=self.server_name or None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTarget:
    """One model on an Open Inference server.

    Args:
        target: `HOST:PORT`.
        model: What the server calls the model.
        model_version: The version asked for; empty leaves the choice to the server.
        is_decoupled: The server may answer a request in parts (Triton's decoupled models, generators of another router): who
            takes parts is answered by a stream.
        server: The server's own name and version when it was checked.
        checked_at: When its metadata was checked, as RFC 3339.
        tls: Absent: plain text.
        connections: Connections of one worker; more than one reaches more than one process behind the target, and costs
            a tenth more CPU a request.
        max_requests: Requests of one worker in flight; copies get half of it, a further request is refused.
        health_interval_s: Time between two looks at the server's readiness, give or take a fifth.
        outliers: When it is left alone.
    """

    target: str
    model: str
    model_version: str = ""
    is_decoupled: bool = False
    server: str = ""
    checked_at: str = ""
    tls: RemoteTls | None = None
    connections: int = 1
    max_requests: int = 1024
    health_interval_s: float = 5.0
    outliers: OutlierDetection = field(default_factory=OutlierDetection)

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.connections < 1 or self.max_requests < 2 or self.health_interval_s <= 0:
            raise VariantError(
                f"connections is {self.connections}, max_requests {self.max_requests}, health_interval_s "
                f"{self.health_interval_s}: give at least 1, at least 2, and a positive number"
            )

    @property
    def address(self) -> Target:
        """The target in parts.

        Raises:
            VariantError: It is no `HOST:PORT`.
        """
        try:
            return Target.parse(self.target)
        except ValueError as error:
            raise VariantError(str(error)) from error
