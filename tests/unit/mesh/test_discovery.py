"""The discovery service, driven as an Envoy drives it."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from anabranch.mesh.discovery import STREAM, Discovery
from anabranch.mesh.encode import CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE, type_url
from anabranch.proto import envoy_pb2 as pb
from anabranch.wire.seam import Status, StreamCall

ROUTES = type_url(ROUTE_TYPE)


@dataclass
class Envoy:
    """A stream of an Envoy: what it was sent, and how it answers."""

    sent: list[pb.DiscoveryResponse] = field(default_factory=list)
    ended: tuple[Status, str] | None = None
    callbacks: dict[str, Any] = field(default_factory=dict)

    def on_message(self, callback: Any) -> None:
        self.callbacks["message"] = callback

    def on_half_close(self, callback: Any) -> None:
        self.callbacks["half_close"] = callback

    def on_cancel(self, callback: Any) -> None:
        self.callbacks["cancel"] = callback

    def send(self, message: bytes) -> None:
        self.sent.append(pb.DiscoveryResponse.FromString(message))

    def finish(self, status: Status = Status.OK, message: str = "") -> None:
        self.ended = (status, message)

    def ask(self, url: str = ROUTES, **fields: Any) -> None:
        request = pb.DiscoveryRequest(type_url=url, node=pb.Node(id="envoy-1"), **fields)
        self.callbacks["message"](request.SerializeToString())

    def take(self) -> None:
        """Acknowledge what came last."""
        last = self.sent[-1]
        self.ask(last.type_url, version_info=last.version_info, response_nonce=last.nonce)

    def refuse(self, kept: str, why: str) -> None:
        last = self.sent[-1]
        self.ask(
            last.type_url,
            version_info=kept,
            response_nonce=last.nonce,
            error_detail=pb.Status(code=3, message=why),
        )


@pytest.fixture
def taken() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def discovery(taken: list[tuple[str, str]]) -> Discovery:
    return Discovery(on_taken=lambda url, version: taken.append((url, version)))


def connect(discovery: Discovery) -> Envoy:
    envoy = Envoy()
    discovery.handlers().stream[STREAM](cast(StreamCall, envoy))
    return envoy


def routes(version: str) -> dict[str, tuple[str, list[pb.Any]]]:
    return {ROUTE_TYPE: (version, [pb.Any(type_url=ROUTES, value=version.encode())])}


def test_who_subscribes_gets_what_there_is_and_every_change(
    discovery: Discovery, taken: list[tuple[str, str]]
) -> None:
    discovery.publish(routes("1"))
    envoy = connect(discovery)
    envoy.ask()
    envoy.take()
    discovery.publish(routes("2"))
    assert [(each.version_info, each.resources[0].value) for each in envoy.sent] == [("1", b"1"), ("2", b"2")]
    assert taken == [(ROUTES, "1")]
    envoy.take()
    assert taken == [(ROUTES, "1"), (ROUTES, "2")]
    assert len(envoy.sent) == 2, "an acknowledgement is not answered"


def test_who_subscribes_before_there_is_anything_waits(discovery: Discovery) -> None:
    envoy = connect(discovery)
    envoy.ask()
    assert envoy.sent == []
    discovery.publish(routes("1"))
    assert len(envoy.sent) == 1


def test_types_are_apart_and_unknown_ones_wait(discovery: Discovery) -> None:
    envoy = connect(discovery)
    envoy.ask()
    envoy.ask("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment")
    discovery.publish({CLUSTER_TYPE: ("1", []), LISTENER_TYPE: ("1", [])})
    assert envoy.sent == []
    envoy.ask(type_url(CLUSTER_TYPE))
    assert [each.type_url for each in envoy.sent] == [type_url(CLUSTER_TYPE)]


def test_what_envoy_refuses_is_counted_and_not_sent_again(
    discovery: Discovery, caplog: pytest.LogCaptureFixture, taken: list[tuple[str, str]]
) -> None:
    discovery.publish(routes("1"))
    envoy = connect(discovery)
    envoy.ask()
    envoy.take()
    discovery.publish(routes("2"))
    envoy.refuse("1", "no such cluster")
    assert discovery.refused == 1
    assert "no such cluster" in caplog.text
    assert len(envoy.sent) == 2
    assert taken == [(ROUTES, "1")]
    discovery.publish(routes("3"))
    assert envoy.sent[-1].version_info == "3"


def test_an_envoy_that_left_gets_nothing(discovery: Discovery) -> None:
    envoy, other = connect(discovery), connect(discovery)
    for each in (envoy, other):
        each.ask()
    assert discovery.clients == 2
    envoy.callbacks["cancel"]()
    other.callbacks["half_close"]()
    assert discovery.clients == 0
    discovery.publish(routes("1"))
    assert envoy.sent == other.sent == []


def test_one_that_comes_with_an_old_configuration_gets_the_new_one(discovery: Discovery) -> None:
    discovery.publish(routes("2"))
    envoy = connect(discovery)
    # After a reconnect, the first request names the version that the last control plane gave.
    envoy.ask(version_info="1")
    assert [each.version_info for each in envoy.sent] == ["2"]


def test_streams_end_with_the_control_plane_and_with_noise(discovery: Discovery) -> None:
    envoy, noisy = connect(discovery), connect(discovery)
    noisy.callbacks["message"](b"\xff\xff")
    assert noisy.ended is not None
    assert noisy.ended[0] is Status.INVALID_ARGUMENT
    discovery.shut_down()
    assert envoy.ended is not None
    assert envoy.ended[0] is Status.UNAVAILABLE
