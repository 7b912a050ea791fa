"""An xDS server that gives Envoy its routes and flips the weights: all to a, all to b, and so on.

    xds_control.py PORT FLIPS PERIOD_S

Prints one JSON line a flip, with the monotonic time just before it is sent.
"""

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import grpc.aio
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import json_format

from bench.dataplane.envoy_config import envoy_routes

_TYPE_URL = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_WARM_UP_S = 2.0


class Control(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Answers the one subscription that Envoy makes."""

    def __init__(self, flips: int, period_s: float) -> None:
        self._flips = flips
        self._period_s = period_s

    async def StreamAggregatedResources(self, _requests: Any, context: Any) -> None:  # noqa: N802  # gRPC's name
        """Send the first routes, then one version after another; what Envoy acknowledges is not waited for."""
        await context.read()
        for flip in range(self._flips + 1):
            response = _response(flip)
            print(json.dumps({"pushed_at": time.monotonic(), "variant": _target(flip)}), flush=True)
            await context.write(response)
            await asyncio.sleep(self._period_s if flip else _WARM_UP_S)
        await asyncio.Event().wait()


def _target(flip: int) -> str:
    return "b" if flip % 2 else "a"


def _response(flip: int) -> Any:
    weights = (0, 100) if flip % 2 else (100, 0)
    routes = json_format.ParseDict(envoy_routes(weights), route_pb2.RouteConfiguration())
    response = discovery_pb2.DiscoveryResponse(version_info=str(flip), nonce=str(flip), type_url=_TYPE_URL)
    response.resources.add().Pack(routes)
    return response


async def main() -> None:
    """Serve until killed."""
    port, flips, period_s = sys.argv[1:]
    server = grpc.aio.server()
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(
        Control(int(flips), float(period_s)), server
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
