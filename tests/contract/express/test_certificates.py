"""Callers known by their connection's certificate: what one may is not learnt for another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from anabranch.router.access.authenticator import Rules
from anabranch.store.access import Principal, Role
from anabranch.wire.seam import Tls

CERTIFICATES = Path(__file__).parents[1] / "wire" / "tls"
Start = Callable[..., Any]


def may(**roles: Role) -> Rules:
    return Rules(identities={name: Principal(actor=name, role=role) for name, role in roles.items()})


@pytest.fixture
def secured(start: Start) -> Any:
    """A port that knows `client` and `server` by their certificates; the second may not ask models."""
    tls = Tls(
        certificate_file=CERTIFICATES / "server.pem",
        key_file=CERTIFICATES / "server.key",
        client_ca_file=CERTIFICATES / "ca.pem",
    )
    return start(tls=tls, tokens=may(client=Role.FEEDBACK, server=Role.VIEWER))


def connected(router: Any, name: str) -> Any:
    read = [(CERTIFICATES / file).read_bytes() for file in ("ca.pem", f"{name}.key", f"{name}.pem")]
    channel: grpc.Channel = router.connect(grpc.ssl_channel_credentials(*read))
    return channel


def test_what_one_certificate_may_another_may_not(secured: Any) -> None:
    known, other = connected(secured, "client"), connected(secured, "server")
    with secured.takes(2):
        for _ in range(3):
            assert secured.ask(channel=known).variant == "base"
    with secured.takes(0):
        assert secured.ask(channel=other).status is grpc.StatusCode.PERMISSION_DENIED
    with secured.takes(1):
        assert secured.ask(channel=known).variant == "base"


def test_a_certificate_that_is_not_known_any_more_is_refused_at_the_next_request(secured: Any) -> None:
    known = connected(secured, "client")
    for _ in range(3):
        assert secured.ask(channel=known).variant == "base"
    secured.follow(may(server=Role.VIEWER))
    with secured.takes(0):
        assert secured.ask(channel=known).status is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_goes_before_a_certificate(secured: Any) -> None:
    known = connected(secured, "client")
    with secured.takes(0):
        wrong = ("authorization", "Bearer anb_wrong")
        for _ in range(3):
            assert secured.ask(None, wrong, channel=known).status is grpc.StatusCode.UNAUTHENTICATED
