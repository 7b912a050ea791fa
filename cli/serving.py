"""Run a server in this process, from what the command line says."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from anabranch.cli.connection import sqlite_path
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.mesh.process import EnvoyFailed
from anabranch.mesh.serve import MeshServer
from anabranch.mesh.settings import MeshSettings, fixed_ports
from anabranch.router.access.identities import InvalidIdentities
from anabranch.router.control.port import Unprotected
from anabranch.router.logs import LogFormat, set_up_logging
from anabranch.router.models import UnknownModel
from anabranch.router.ports import check_port
from anabranch.router.serve import Server, WorkerFailed
from anabranch.router.settings import Clients, ControllerPlace, InvalidSettings, Settings, StateInUse
from anabranch.store.engine import MissingDriver
from anabranch.variants.errors import VariantError
from anabranch.wire.choice import WireKind

_Choice = TypeVar("_Choice", bound=StrEnum)


class DataPlane(StrEnum):
    """What is on the path of a request."""

    ROUTER = "router"
    ENVOY = "envoy"


READY = "serving on "
"""What the line begins with that says the port is open; the address follows."""
CONTROL = "control on "
"""What the line begins with that says where the control port is."""
METRICS = "metrics on "
"""The same for the metrics."""


def run_server(
    *,
    models: Path,
    state: Path,
    store: str,
    baselines: Sequence[str],
    host: str,
    port: int,
    workers: int,
    threads: int,
    wire: str,
    class_targets: Sequence[str],
    forecast: bool,
    metrics_port: int | None,
    metrics_host: str,
    log_format: str,
    trace_share: float,
    otlp_endpoint: str,
    max_message_bytes: int,
    control_port: int | None,
    control_host: str,
    identities: Path | None,
    clients: str,
    max_feedback_per_s: float,
    limits: Sequence[str],
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    worker_silence_s: float,
    tick_s: float,
    controller: str,
    lease_s: float,
    keep_days: float,
    journal_days: float,
    journal_gib: float,
    assignment_key: Path | None,
    candidate_timeout_s: float,
    max_queue_size: int,
    dataplane: str,
    envoy: Path | None,
    xds_port: int,
    say: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT."""
    if store:
        sqlite_path(store)  # refuses what is no URL of a store
    set_up_logging(_one_of(LogFormat, "log format", log_format), "supervisor")
    try:
        settings = Settings(
            models=models,
            state=state,
            store=store,
            baselines=_baselines(baselines),
            host=host,
            port=port,
            workers=workers,
            threads=threads,
            wire=_one_of(WireKind, "wire", wire),
            class_targets_ms=numbers(class_targets, "class target", "realtime=50, in milliseconds"),
            forecast=forecast,
            metrics_port=metrics_port,
            metrics_host=metrics_host,
            log_format=_one_of(LogFormat, "log format", log_format),
            trace_share=trace_share,
            otlp_endpoint=otlp_endpoint,
            max_message_bytes=max_message_bytes,
            control_port=control_port,
            control_host=control_host,
            identities=identities,
            clients=_clients(clients),
            max_feedback_per_s=max_feedback_per_s,
            wire_limits=numbers(limits, "limit", "max_connections=512"),
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            worker_silence_s=worker_silence_s,
            tick_s=tick_s,
            controller=_one_of(ControllerPlace, "controller", controller),
            lease_s=lease_s,
            keep_days=keep_days,
            journal_days=journal_days,
            journal_bytes=int(journal_gib * 2**30),
            assignment_key_file=assignment_key,
            candidate_timeout_s=candidate_timeout_s,
            max_queue_size=max_queue_size,
        )
        if _one_of(DataPlane, "dataplane", dataplane) is DataPlane.ENVOY:
            asyncio.run(_serve_mesh(MeshSettings(server=settings, xds_port=xds_port, envoy=envoy), say))
        else:
            asyncio.run(_serve(settings, say))
    except (InvalidSettings, InvalidIdentities, Unprotected, VariantError) as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error
    except MissingDriver as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error
    except (FileNotFoundError, UnknownModel, LookupError) as error:
        raise CommandFailed(ExitCode.NOT_FOUND, str(error)) from error
    except StateInUse as error:
        raise CommandFailed(ExitCode.CONFLICT, str(error)) from error
    except (WorkerFailed, EnvoyFailed) as error:
        raise CommandFailed(ExitCode.FAILURE, str(error)) from error
    except OSError as error:
        raise _unservable(host, port, error) from error


def require_port(host: str, port: int) -> None:
    """See that a server could begin to serve, before long work is done for it.

    Raises:
        CommandFailed: If the port is taken, or the host is none of this machine's.
    """
    try:
        check_port(host, port)
    except OSError as error:
        raise _unservable(host, port, error) from error


def _unservable(host: str, port: int, error: OSError) -> CommandFailed:
    hint = "another process has it: stop that one, or choose another --port"
    return CommandFailed(
        ExitCode.FAILURE,
        f"cannot serve on {host}:{port}: {error.strerror}",
        hint if error.errno == errno.EADDRINUSE else "choose another --host or --port",
    )


async def _serve(settings: Settings, say: Callable[[str], None]) -> None:
    server = Server(
        settings,
        on_ready=lambda port: say(f"{READY}{settings.host}:{port}"),
        on_metrics=lambda address: say(f"{METRICS}{address}"),
        on_control=lambda address: say(f"{CONTROL}{address}"),
    )
    await server.run()


async def _serve_mesh(asked: MeshSettings, say: Callable[[str], None]) -> None:
    settings = fixed_ports(asked)
    host = settings.server.host
    server = MeshServer(
        settings,
        on_ready=lambda port: say(f"{READY}{host}:{port}"),
        on_metrics=lambda address: say(f"{METRICS}{address}"),
        say=say,
    )
    await server.run()


def _one_of(kind: type[_Choice], what: str, name: str) -> _Choice:
    try:
        return kind(name)
    except ValueError as error:
        known = ", ".join(kind)
        raise CommandFailed(ExitCode.BAD_INPUT, f"{what} {name!r} is unknown: use one of {known}") from error


def _baselines(given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        model, separator, variant = text.partition("=")
        if not (model and separator and variant):
            raise CommandFailed(ExitCode.BAD_INPUT, f"baseline {text!r} must be MODEL=VARIANT")
        found[model] = variant
    return found


def _clients(name: str) -> Clients:
    try:
        return Clients(name)
    except ValueError as error:
        known = ", ".join(Clients)
        raise CommandFailed(ExitCode.BAD_INPUT, f"clients {name!r} must be one of {known}") from error


def numbers(given: Sequence[str], what: str, example: str) -> dict[str, float]:
    """Options that are NAME=NUMBER, by name.

    Raises:
        CommandFailed: One is not.
    """
    found: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise CommandFailed(
                ExitCode.BAD_INPUT, f"{what} {text!r} must be NAME=NUMBER, such as {example}"
            ) from None
    return found
