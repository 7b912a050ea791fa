"""From a snapshot to what Envoy's script assigns by: one value for all models, told apart by its version."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from anabranch.bandit.snapshot import Route, Snapshot
from anabranch.variants.manifest import Manifest
from anabranch.wire.seam import Call

Manifests = Mapping[str, Mapping[str, Manifest]]

SERVICES: Final = ("/anabranch.v1.FeedbackService/", "/grpc.health.v1.Health/", "/grpc.reflection.v1")
"""Paths that the control plane itself answers, behind the same port."""

INFERENCE: Final = "/inference.GRPCInferenceService/"
"""Paths that the script sends to variants."""

CONTROL: Final = "anabranch-control"
"""Name of the cluster of the control plane."""

CLUSTER_HEADER: Final = "x-anabranch-cluster"
CALLER: Final = "x-anabranch-caller"
"""Header in which Envoy tells the control plane a client's address; a client's own is overwritten."""

LUA_FILTER: Final = "envoy.filters.http.lua"
ROUTES: Final = "anabranch"
_STAY_HERE: Final = (CLUSTER_HEADER, "authorization", "cookie", "x-target-variant")


def cluster_name(model: str, variant: str) -> str:
    """The name of a variant's cluster."""
    return f"{model}/{variant}"


def script_routes(
    snapshot: Snapshot,
    manifests: Manifests,
    *,
    lane: int,
    version: str,
    ejected: Collection[tuple[str, str]] = (),
) -> dict[str, Any]:
    """What the script reads of its route's metadata.

    Args:
        snapshot: What the controller published.
        manifests: The served variants, all remote.
        lane: Journal lane of this control plane's life.
        version: Differs whenever anything else does.
        ejected: Candidates that are left alone for now, as (model, variant): the baseline stands in for them.
    """
    models = {
        name: _model(route, manifests[name], [variant for model, variant in ejected if model == name])
        for name, route in snapshot.routes.items()
    }
    first = min(models)
    default = models[first]["variants"][snapshot.routes[first].baseline]["cluster"]
    return {"version": version, "lane": lane, "default": default, "models": models}


def _model(route: Route, manifests: Mapping[str, Manifest], ejected: list[str]) -> dict[str, Any]:
    return {
        "variants": {name: _server(route.model, name, manifest) for name, manifest in manifests.items()},
        "arms": list(route.arms),
        "ends": list(route.layout.ends),
        "owners": list(route.layout.owners),
        "weights": list(route.layout.weights),
        "epoch": route.epoch,
        "experiment": route.experiment,
        "experiment_id": route.experiment_id,
        "salt": route.salt,
        "unit": route.unit_metadata or "",
        "ejected": sorted(ejected),
    }


def _server(model: str, variant: str, manifest: Manifest) -> dict[str, str]:
    assert manifest.remote is not None
    return {
        "cluster": cluster_name(model, variant),
        "model": manifest.remote.model,
        "version": manifest.remote.model_version,
    }


def route_configuration(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Envoy's RouteConfiguration: every inference goes where the script says.

    Args:
        metadata: What the script assigns by.
    """
    # Envoy keeps grpc-timeout itself; a timeout of its own there is none.
    patient = {"timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}
    address = {"key": CALLER, "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}
    caller = {"header": address, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    here = [
        {
            "match": {"prefix": prefix},
            "route": {"cluster": CONTROL, **patient},
            "request_headers_to_add": [caller],
        }
        for prefix in SERVICES
    ]
    # Nothing else has a route: on the control plane's port are Envoy's own services too, which no client may reach.
    elsewhere = {
        "match": {"prefix": INFERENCE},
        "route": {"cluster_header": CLUSTER_HEADER, **patient},
        "metadata": {"filter_metadata": {LUA_FILTER: dict(metadata)}},
        "request_headers_to_remove": list(_STAY_HERE),
    }
    everything = {"name": "all", "domains": ["*"], "routes": [*here, elsewhere]}
    return {"name": ROUTES, "virtual_hosts": [everything]}


def caller_of(call: Call) -> str:
    """Whom the control plane counts a call to: the client of Envoy, or who calls the port itself."""
    named = [value for name, value in call.metadata if name == CALLER]
    return str(named[0]) if len(named) == 1 else call.peer.rpartition(":")[0]
