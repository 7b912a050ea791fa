"""Envoy's listener, clusters and bootstrap, as the JSON of its own messages.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/api
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Final

from anabranch.mesh.passport import initial_metadata
from anabranch.mesh.routes import CONTROL, LUA_FILTER, ROUTES, Manifests, cluster_name
from anabranch.variants.manifest import Manifest
from anabranch.variants.remote_target import OutlierDetection, RemoteTls
from anabranch.wire.seam import Tls

LISTENER: Final = "anabranch"
LOG_NAME: Final = "anabranch"
NODE: Final = "anabranch"
STATUS: Final = "grpc-status"

_TYPE: Final = "type.googleapis.com/envoy.extensions"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_FILTERS: Final = f"{_TYPE}.filters"
_BUFFER_MARGIN_BYTES: Final = 64 << 10
# An entry waits this long at most for its fellows on the way to the journal.
_FLUSH: Final = "0.1s"


def listener(
    *, host: str, port: int, key_file: Path, secret: str, max_message_bytes: int, tls: Tls | None
) -> dict[str, Any]:
    """The inference port.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        key_file: The installation's key of assignment ids, where Envoy can read it: keys go over no wire.
        secret: What Envoy's log begins with.
        max_message_bytes: Largest request; Envoy answers a larger one with RESOURCE_EXHAUSTED by its status 413.
        tls: Files of the port's TLS, where Envoy can read them.
    """
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "anabranch",
        "codec_type": "HTTP2",
        "rds": {"route_config_name": ROUTES, "config_source": {"ads": {}, "resource_api_version": "V3"}},
        "http_filters": [
            {
                "name": LUA_FILTER,
                "typed_config": {
                    "@type": f"{_FILTERS}.http.lua.v3.Lua",
                    "default_source_code": {"inline_string": script(key_file)},
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_FILTERS}.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            },
        ],
        "access_log": [{"name": "envoy.access_loggers.http_grpc", "typed_config": _access_log(secret)}],
        "stream_idle_timeout": "0s",
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        # Where the port stands on a network, clients' addresses are not to be believed from their headers.
        "use_remote_address": True,
        "skip_xff_append": True,
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if tls is not None:
        chain["transport_socket"] = _transport_socket(_downstream_tls(tls))
    return {
        "name": LISTENER,
        "address": _address(host, port),
        "filter_chains": [chain],
        # The script reads a request whole.
        "per_connection_buffer_limit_bytes": max_message_bytes + _BUFFER_MARGIN_BYTES,
    }


def script(key_file: Path) -> str:
    """The script that assigns, told where the key is."""
    text = resources.files("anabranch.mesh").joinpath("assign.lua").read_text()
    # JSON's escapes of what paths hold are Lua's too.
    return f"local KEY_FILE = {json.dumps(str(key_file), ensure_ascii=False)}\n{text}"


def clusters(manifests: Manifests, models: Path) -> list[dict[str, Any]]:
    """One cluster a variant.

    Args:
        manifests: The served variants, all remote.
        models: Their folder, where the files of their TLS are.
    """
    return [
        _variant_cluster(cluster_name(model, name), manifest, models / model / name)
        for model, variants in manifests.items()
        for name, manifest in variants.items()
    ]


def _variant_cluster(name: str, manifest: Manifest, folder: Path) -> dict[str, Any]:
    remote = manifest.remote
    assert remote is not None
    cluster = cluster_of(name, remote.address.host, remote.address.port)
    limits = {"max_requests": remote.max_requests, "max_pending_requests": remote.max_requests}
    cluster["circuit_breakers"] = {"thresholds": [{**limits, "max_retries": 0}]}
    cluster["outlier_detection"] = _outliers(remote.outliers)
    # One host a cluster: when it is ejected, nobody is left, and Envoy must not take the host all the same.
    cluster["common_lb_config"] = {"healthy_panic_threshold": {"value": 0.0}}
    if remote.tls is not None:
        cluster["transport_socket"] = _transport_socket(
            _upstream_tls(remote.tls, folder, remote.address.host)
        )
    return cluster


def cluster_of(name: str, host: str, port: int) -> dict[str, Any]:
    """A cluster of one HTTP/2 server."""
    options = {
        "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": _address(host, port)}}
    return {
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {_HTTP_OPTIONS: options},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def bootstrap(
    *, control_host: str, control_port: int, secret: str, admin: Path, node: str = NODE
) -> dict[str, Any]:
    """What Envoy is started with; all else it asks of the control plane.

    Args:
        control_host: Address of the control plane.
        control_port: Its port.
        secret: What tells it that an Envoy of its own asks.
        admin: Socket of Envoy's administration: a file, so that only this user asks.
        node: Name of this Envoy.
    """
    control = cluster_of(CONTROL, control_host, control_port)
    source = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": node, "cluster": "anabranch"},
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [_control_service(secret)],
            },
            "lds_config": source,
            "cds_config": source,
        },
        "static_resources": {"clusters": [control]},
        "layered_runtime": {
            "layers": [
                {
                    "name": "limits",
                    "static_layer": {"overload": {"global_downstream_max_connections": 50_000}},
                }
            ]
        },
    }


def _control_service(secret: str) -> dict[str, Any]:
    return {"envoy_grpc": {"cluster_name": CONTROL}, "initial_metadata": initial_metadata(secret)}


def _access_log(secret: str) -> dict[str, Any]:
    return {
        "@type": f"{_TYPE}.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        "common_config": {
            "log_name": LOG_NAME,
            "transport_api_version": "V3",
            "grpc_service": _control_service(secret),
            "buffer_flush_interval": _FLUSH,
        },
        "additional_response_headers_to_log": [STATUS],
        "additional_response_trailers_to_log": [STATUS],
    }


def _outliers(rule: OutlierDetection) -> dict[str, Any]:
    return {
        "consecutive_5xx": rule.consecutive_errors,
        "interval": f"{rule.interval_s:g}s",
        "base_ejection_time": f"{rule.base_ejection_time_s:g}s",
        "max_ejection_time": f"{rule.max_ejection_time_s:g}s",
        "max_ejection_percent": 100,
        # The comparison among hosts needs several.
        "enforcing_success_rate": 0,
    }


def _downstream_tls(tls: Tls) -> dict[str, Any]:
    common: dict[str, Any] = {
        "tls_certificates": [_certificate(tls.certificate_file, tls.key_file)],
        "alpn_protocols": ["h2"],
    }
    context: dict[str, Any] = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": common,
    }
    if tls.client_ca_file is not None:
        common["validation_context"] = {"trusted_ca": _file(tls.client_ca_file)}
        context["require_client_certificate"] = True
    return context


def _upstream_tls(tls: RemoteTls, folder: Path, host: str) -> dict[str, Any]:
    name = tls.server_name or host
    authorities = folder / tls.ca if tls.ca else Path("/etc/ssl/certs/ca-certificates.crt")
    alternative = {"san_type": "DNS", "matcher": {"exact": name}}
    common: dict[str, Any] = {
        "alpn_protocols": ["h2"],
        "validation_context": {
            "trusted_ca": _file(authorities),
            "match_typed_subject_alt_names": [alternative],
        },
    }
    if tls.certificate:
        common["tls_certificates"] = [_certificate(Path(tls.certificate), Path(tls.key))]
    return {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common,
        "sni": name,
    }


def _certificate(certificate: Path, key: Path) -> dict[str, Any]:
    return {"certificate_chain": _file(certificate), "private_key": _file(key)}


def _file(path: Path) -> dict[str, str]:
    return {"filename": str(path.resolve())}


def _transport_socket(context: dict[str, Any]) -> dict[str, Any]:
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
