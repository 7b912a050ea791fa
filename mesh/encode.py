"""From the JSON of Envoy's messages to their bytes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import Message

from anabranch.proto import envoy_pb2 as pb

LISTENER_TYPE: Final = "envoy.config.listener.v3.Listener"
CLUSTER_TYPE: Final = "envoy.config.cluster.v3.Cluster"
ROUTE_TYPE: Final = "envoy.config.route.v3.RouteConfiguration"

_TYPE_HOST: Final = "type.googleapis.com/"
_FILTERS: Final = "envoy.extensions.filters"
_TLS: Final = "envoy.extensions.transport_sockets.tls.v3"
_KNOWN: Final[Mapping[str, type[Message]]] = {
    LISTENER_TYPE: pb.Listener,
    CLUSTER_TYPE: pb.Cluster,
    ROUTE_TYPE: pb.RouteConfiguration,
    f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager": pb.HttpConnectionManager,
    f"{_FILTERS}.http.lua.v3.Lua": pb.Lua,
    f"{_FILTERS}.http.router.v3.Router": pb.Router,
    "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig": pb.HttpGrpcAccessLogConfig,
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pb.HttpProtocolOptions,
    f"{_TLS}.DownstreamTlsContext": pb.DownstreamTlsContext,
    f"{_TLS}.UpstreamTlsContext": pb.UpstreamTlsContext,
}


def type_url(name: str) -> str:
    """How an Any, and a subscription, names a message."""
    return _TYPE_HOST + name


def pack(name: str, fields: Mapping[str, Any]) -> pb.Any:
    """One message as an Any.

    Args:
        name: Its full name in Envoy's API.
        fields: Its fields as JSON; a value with "@type" is packed too.

    Raises:
        google.protobuf.json_format.ParseError: A field is unknown, or of another type.
    """
    message = _KNOWN[name]()
    json_format.ParseDict(_packed(fields), message)
    return pb.Any(type_url=type_url(name), value=message.SerializeToString(deterministic=True))


def _packed(value: Any) -> Any:
    """The same with every Any in it packed, as JSON of an Any whose message this process's protobuf does not know."""
    if isinstance(value, list):
        return [_packed(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    fields = {key: _packed(each) for key, each in value.items() if key != "@type"}
    if "@type" not in value:
        return fields
    inner = pack(value["@type"].removeprefix(_TYPE_HOST), fields)
    return {"type_url": inner.type_url, "value": base64.b64encode(inner.value).decode()}
