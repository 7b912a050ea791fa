"""How Envoy is driven: what `serve --dataplane envoy` was asked for beside what every server is."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from anabranch.mesh import refusals
from anabranch.router.settings import MOST_WAITING, Settings
from anabranch.variants.manifest import Manifest

CONTROL_HOST: Final = "127.0.0.1"
"""Where Envoys ask and report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """How Envoy is driven.

    Attributes:
        server: What every server is told: models, state, baselines, the inference port.
        xds_port: Where Envoys ask for their configuration and send their logs, on loopback.
        envoy: Envoy's program; None: somebody else starts it, with the bootstrap in the state folder.
    """

    server: Settings
    xds_port: int = 18000
    envoy: Path | None = None

    @property
    def bootstrap(self) -> Path:
        """The file that Envoy is started with."""
        return self.server.state / "envoy.json"


def mesh_problems(settings: MeshSettings, manifests: Mapping[str, Mapping[str, Manifest]]) -> list[str]:
    """All that is wrong with the settings, and with the variants for Envoy."""
    problems = refusals.variant_problems(manifests) + refusals.access_problems(settings.server)
    if settings.envoy is not None and not os.access(settings.envoy, os.X_OK):
        problems.append(f"envoy is {settings.envoy}, which is no program: give the path of Envoy's binary")
    if settings.server.trace_share:
        problems.append("traces are asked for: with Envoy on the path, configure its own tracing")
    if settings.server.max_queue_size != MOST_WAITING:
        problems.append("a queue's size is given: Envoy has no queues, give it to the variants' own server")
    for name, port in (("port", settings.server.port), ("xds_port", settings.xds_port)):
        if not 0 < port < 65536:
            problems.append(f"{name} is {port}, must be from 1 to 65535: Envoy is told which one to take")
    return problems


def fixed_ports(settings: MeshSettings) -> MeshSettings:
    """The same with every port chosen: a 0 takes a free one now."""
    server = settings.server
    return replace(
        settings,
        server=replace(server, port=server.port or _free_port(server.host)),
        xds_port=settings.xds_port or _free_port(CONTROL_HOST),
    )


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])
