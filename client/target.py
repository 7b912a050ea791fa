"""Where a server is, and how its caller proves who they are. A token never leaves in plain text, but to this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_ADDRESS: Final = re.compile(r"(?:(grpcs?)://)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})/?")


class BadTarget(ValueError):
    """The text names no server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server.

    Attributes:
        host: Name or address, IPv6 without brackets.
        is_secure: Whether it is spoken to by TLS.
    """

    host: str
    port: int
    is_secure: bool

    @property
    def address(self) -> str:
        """As gRPC writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine."""
        return self.host in _LOOPBACK


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How a caller proves who they are, and by what the server is known. Secrets are not shown.

    Attributes:
        token: An API token.
        ca_file: Authorities of the server's certificate, PEM; the system's where absent.
        certificate_file: The caller's certificate, PEM, for mutual TLS.
        key_file: Its private key, PEM.
    """

    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    @property
    def wants_tls(self) -> bool:
        """Whether there is anything that only TLS uses."""
        return self.ca_file is not None or self.certificate_file is not None


def is_target(text: str) -> bool:
    """Whether a text has the form of a server's address."""
    return _ADDRESS.fullmatch(text) is not None


def parse_target(text: str, credentials: Credentials | None = None) -> Target:
    """The server of a text: `HOST:PORT`, `grpc://HOST:PORT` (plain) or `grpcs://HOST:PORT` (TLS).

    Without a scheme, another machine is spoken to by TLS; this one by TLS where a CA or a certificate is given.

    Raises:
        BadTarget: It is none, or a token would leave in plain text.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise BadTarget(
            f"server {text!r} must be HOST:PORT, grpcs://HOST:PORT (TLS) or grpc://HOST:PORT (plain)"
        )
    scheme, host, port = match[1], match[2].strip("[]"), int(match[3])
    given = credentials or Credentials()
    is_secure = scheme == "grpcs" or (scheme is None and (host not in _LOOPBACK or given.wants_tls))
    target = Target(host=host, port=port, is_secure=is_secure)
    if given.token and not is_secure and not target.is_loopback:
        raise BadTarget(
            f"a token would go to {target.address} in plain text, where others can read it: write grpcs://{target.address}"
        )
    return target


def token_from_environment() -> str | None:
    """The token in ANABRANCH_TOKEN, or in the file that ANABRANCH_TOKEN_FILE names; never on a command line.

    Raises:
        OSError: The file cannot be read.
    """
    token = os.environ.get("ANABRANCH_TOKEN", "").strip()
    if token:
        return token
    path = os.environ.get("ANABRANCH_TOKEN_FILE", "").strip()
    return Path(path).read_text(encoding="utf-8").strip() if path else None
