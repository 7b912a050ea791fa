"""Envoy's configuration as JSON: one listener, two clusters, a weighted split that sticks to a hash of the unit."""

from typing import Any

from bench.dataplane.load_plan import UNIT_HEADER

WEIGHTS = (95, 5)
ROUTES = "split"
_TYPE = "type.googleapis.com/envoy"
_FILTERS = f"{_TYPE}.extensions.filters"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CONTROL = "control"


def envoy_config(port: int, ports: tuple[int, int], *, control_port: int | None = None) -> dict[str, Any]:
    """Envoy's bootstrap.

    Args:
        port: Where it listens.
        ports: Of the backends a and b.
        control_port: Of the xDS server that gives the routes; None for a static 95/5 split.
    """
    static = {"route_config": envoy_routes(WEIGHTS)}
    dynamic = {
        "rds": {"route_config_name": ROUTES, "config_source": {"ads": {}, "resource_api_version": "V3"}}
    }
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP2",
        **(static if control_port is None else dynamic),
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"address": _address(port), "filter_chains": [{"filters": filters}]}
    clusters = [_cluster(name, backend) for name, backend in zip("ab", ports, strict=True)]
    bootstrap: dict[str, Any] = {"static_resources": {"listeners": [listener], "clusters": clusters}}
    if control_port is not None:
        clusters.append(_cluster(_CONTROL, control_port))
        bootstrap["node"] = {"id": "bench", "cluster": "bench"}
        bootstrap["dynamic_resources"] = {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": _CONTROL}}],
            }
        }
    return bootstrap


def envoy_routes(weights: tuple[int, int]) -> dict[str, Any]:
    """A RouteConfiguration that splits by a hash of the unit.

    Args:
        weights: Of the clusters a and b, whole percentages.
    """
    shares = [{"name": name, "weight": weight} for name, weight in zip("ab", weights, strict=True)]
    route = {
        "weighted_clusters": {"clusters": shares, "use_hash_policy": True},
        "hash_policy": [{"header": {"header_name": UNIT_HEADER}}],
        "timeout": "0s",
    }
    everything = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
    return {"name": ROUTES, "virtual_hosts": [everything]}


def _cluster(name: str, port: int) -> dict[str, Any]:
    http2 = {
        "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {_HTTP_OPTIONS: http2},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
