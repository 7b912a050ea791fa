"""How both clients set up their channels."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc

from anabranch.client.target import Credentials

OPTIONS: Final = (
    # An experiment's state, and a feedback call of 10,000 outcomes, may be larger than gRPC's own 4 MiB.
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 60_000),
)


def tls_of(credentials: Credentials) -> grpc.ChannelCredentials:
    """The TLS side of credentials.

    Raises:
        OSError: A file cannot be read.
    """
    return grpc.ssl_channel_credentials(
        root_certificates=_read(credentials.ca_file),
        private_key=_read(credentials.key_file),
        certificate_chain=_read(credentials.certificate_file),
    )


def metadata_of(credentials: Credentials) -> tuple[tuple[str, str], ...]:
    """What every call carries."""
    return (("authorization", f"Bearer {credentials.token}"),) if credentials.token else ()


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
