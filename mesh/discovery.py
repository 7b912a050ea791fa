"""The discovery service (xDS): what every connected Envoy has, and what it is sent when that changes.

State of the world over one aggregated stream. What Envoy refuses is logged with its reason and not sent again: it goes on
by what it had.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from anabranch.mesh.encode import CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE, type_url
from anabranch.proto import envoy_pb2 as pb
from anabranch.wire.seam import Handlers, Status, StreamCall

STREAM: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_TYPES: Final = tuple(type_url(name) for name in (CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE))
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Subscription:
    """What one Envoy was sent of one type, and what it took."""

    sent: str = ""
    taken: str = ""


@dataclass(slots=True)
class _Client:
    """One connected Envoy."""

    call: StreamCall
    node: str = ""
    nonce: int = 0
    subscriptions: dict[str, _Subscription] = field(default_factory=dict)


class Discovery:
    """Gives resources to every Envoy that asks.

    Args:
        on_taken: Called with a type's URL and a version when an Envoy has taken it.

    Attributes:
        refused: Updates that an Envoy did not take.
    """

    def __init__(self, *, on_taken: Callable[[str, str], None] = lambda _type, _version: None) -> None:
        self._on_taken = on_taken
        self._resources: dict[str, tuple[str, Sequence[pb.Any]]] = {}
        self._clients: set[int] = set()
        self._by_number: dict[int, _Client] = {}
        self._number = 0
        self.refused = 0

    @property
    def clients(self) -> int:
        """Envoys that are connected."""
        return len(self._by_number)

    def publish(self, updates: Mapping[str, tuple[str, Sequence[pb.Any]]]) -> None:
        """Replace resources, and send them to those who subscribe to them.

        Args:
            updates: By full name of the type: the version and all resources of it.
        """
        for name, update in updates.items():
            self._resources[type_url(name)] = update
        for client in list(self._by_number.values()):
            for url in _TYPES:
                if url in client.subscriptions:
                    self._send(client, url)

    def handlers(self) -> Handlers:
        """What a wire serves."""
        return Handlers(stream={STREAM: self._open})

    def shut_down(self) -> None:
        """End every stream: Envoys keep what they have, and look for the next control plane."""
        for client in list(self._by_number.values()):
            client.call.finish(Status.UNAVAILABLE, "the control plane is shutting down")
        self._by_number.clear()

    def _open(self, call: StreamCall) -> None:
        self._number += 1
        number, client = self._number, _Client(call)
        self._by_number[number] = client

        def ended() -> None:
            if self._by_number.pop(number, None) is not None:
                _log.warning("Envoy %s left: it goes on by the last routes", client.node or "(unnamed)")

        def half_closed() -> None:
            ended()
            call.finish()

        def on_message(message: bytes) -> None:
            try:
                request = pb.DiscoveryRequest.FromString(message)
            except DecodeError as error:
                call.finish(Status.INVALID_ARGUMENT, f"the message is no DiscoveryRequest: {error}")
                return
            self._asked(client, request)

        call.on_cancel(ended)
        call.on_half_close(half_closed)
        call.on_message(on_message)

    def _asked(self, client: _Client, request: pb.DiscoveryRequest) -> None:
        if request.node.id and not client.node:
            client.node = request.node.id
            _log.info("Envoy %s is connected", client.node)
        url = request.type_url
        if url not in _TYPES:
            # A type that is not served: Envoy waits for it in vain, as it does with any control plane.
            return
        subscription = client.subscriptions.get(url)
        if subscription is None:
            client.subscriptions[url] = _Subscription()
            self._send(client, url)
            return
        if request.HasField("error_detail"):
            self.refused += 1
            _log.error(
                "Envoy %s refuses %s of version %s and keeps what it has: %s",
                client.node,
                url.rpartition(".")[2],
                subscription.sent,
                request.error_detail.message,
            )
        elif request.version_info == subscription.sent != subscription.taken:
            subscription.taken = subscription.sent
            self._on_taken(url, subscription.taken)
        self._send(client, url)

    def _send(self, client: _Client, url: str) -> None:
        if url not in self._resources:
            return
        version, resources = self._resources[url]
        subscription = client.subscriptions[url]
        if subscription.sent == version:
            return
        client.nonce += 1
        subscription.sent = version
        response = pb.DiscoveryResponse(
            version_info=version, type_url=url, nonce=str(client.nonce), resources=resources
        )
        client.call.send(response.SerializeToString())
