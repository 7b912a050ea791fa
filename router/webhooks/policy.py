"""Where webhooks may go, and by which keys they are signed: the operator's word, from the environment.

A document names a host and a secret; only the operator of the server says which hosts may be reached and holds the
secrets. So whoever may apply documents can neither reach the inside of the network nor read the server's files.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anabranch.bandit.hooks import Secret, SecretPlace
from anabranch.store.catalog_check import is_allowed

HOSTS: Final = "ANABRANCH_WEBHOOK_HOSTS"
SECRETS: Final = "ANABRANCH_WEBHOOK_SECRETS"
KEYS: Final = "ANABRANCH_WEBHOOK_"
"""How the names of variables begin that hold keys; no other variable is read."""
LEAST_KEY_BYTES: Final = 16

_METADATA: Final = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "fd00:ec2::254", "168.63.129.16")))
"""Addresses at which clouds tell machines their credentials, beside the link-local ones."""

_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 behind a NAT64 gateway (RFC 6052)."""

Resolve = Callable[[str, int], list[str]]
"""The addresses of a host."""


class NotPermitted(Exception):
    """The operator does not allow this; says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator allows.

    Attributes:
        hosts: Names, or `*.example.com` for all below one.
        secrets: Folder of secret files; None: only environment variables hold secrets.
    """

    hosts: tuple[str, ...] = ()
    secrets: Path | None = None


def policy_from(environment: Mapping[str, str]) -> Policy:
    """The policy in `ANABRANCH_WEBHOOK_HOSTS` (separated by commas) and `ANABRANCH_WEBHOOK_SECRETS` (a folder)."""
    hosts = tuple(host.strip() for host in environment.get(HOSTS, "").split(",") if host.strip())
    folder = environment.get(SECRETS, "")
    return Policy(hosts=hosts, secrets=Path(folder) if folder else None)


def read_key(secret: Secret, policy: Policy, environment: Mapping[str, str] = os.environ) -> bytes:
    """The key behind a reference; it goes nowhere but into a signature.

    Raises:
        NotPermitted: If there is none, or it is too short to be one.
    """
    if secret.name in (HOSTS, SECRETS):
        raise NotPermitted(f"{secret.name} is a setting and no secret: name another variable")
    if secret.place is SecretPlace.ENV:
        if not secret.name.startswith(KEYS):
            raise NotPermitted(f"the variable {secret.name} is no key: its name must begin with {KEYS}")
        found = environment.get(secret.name, "").encode()
        where = f"the environment variable {secret.name}"
    elif policy.secrets is None:
        raise NotPermitted(f"the secret is a file, and {SECRETS} names no folder: set it for the server")
    else:
        where = f"the file {secret.name} in {SECRETS}"
        try:
            found = (policy.secrets / Path(secret.name).name).read_bytes().strip()
        except OSError as error:
            raise NotPermitted(f"{where} cannot be read: {error.strerror}") from None
    if len(found) < LEAST_KEY_BYTES:
        raise NotPermitted(f"{where} holds {len(found)} bytes, a key has at least {LEAST_KEY_BYTES}")
    return found


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host by the system's resolver."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _reached(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Where a packet to an address ends: an IPv4 address may be written, or translated, within an IPv6 one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address in _TRANSLATED:
            return ipaddress.IPv4Address(address.packed[-4:])
        return address.ipv4_mapped or address.sixtofour or address
    return address


def permitted_address(host: str, port: int, policy: Policy, resolve: Resolve = resolve) -> str:
    """The address to connect to; it is looked up once, so that it cannot be another one afterwards.

    Link-local addresses and those of clouds' metadata are never reached. A host that is listed by its own name may be
    inside the network; below a `*.` only public addresses are reached, since somebody else may name them.

    Raises:
        NotPermitted: If the host is not listed, or has an address that is never reached.
        OSError: If the name has no address.
    """
    if not is_allowed(host, policy.hosts):
        raise NotPermitted(f"{host} is not in {HOSTS} ({', '.join(policy.hosts) or 'which is empty'})")
    is_by_name = is_allowed(host, [known for known in policy.hosts if not known.startswith("*.")])
    addresses = resolve(host, port)
    for text in addresses:
        address = _reached(text)
        never = (
            address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA
        )
        if never or not (is_by_name or address.is_global):
            raise NotPermitted(f"{host} has the address {address}, which webhooks may not reach")
    if not addresses:
        raise OSError(f"{host} has no address")
    return addresses[0]
