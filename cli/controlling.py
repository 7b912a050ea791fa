"""Run a controller without a server, for ever or for one tick."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from anabranch.cli.connection import created_store, existing_store, find_experiment
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.output import encoded
from anabranch.cli.serving import METRICS, numbers
from anabranch.cli.terminal import Terminal
from anabranch.cli.tick_outcome import EXIT_CODES, TickView, overall, tick_views
from anabranch.router.classes import target_problems
from anabranch.router.controller import Controller
from anabranch.router.leadership import Candidate, process_leadership
from anabranch.router.metrics.port import open_metrics_port
from anabranch.router.metrics.server import ServerMetrics
from anabranch.router.settings import LEAST_LEASE_TICKS, InvalidSettings, lease_problem
from anabranch.router.standalone import run_rounds, standalone_controller
from anabranch.store.port import Store, StoredExperiment
from anabranch.store.sql import SqlStore
from anabranch.store.upkeep_port import KEEP_DAYS

ONE_TICK_S = 60.0
"""How long a single tick may take before a controller that waits takes over from it."""


def run_controller(
    terminal: Terminal,
    url: str,
    models: Path,
    *,
    tick_s: float,
    lease_s: float,
    keep_days: float,
    metrics_host: str,
    metrics_port: int | None,
    class_targets: Sequence[str],
) -> None:
    """Do rounds until SIGTERM or SIGINT.

    Raises:
        CommandFailed: If the store cannot be opened, there are no variants, the times do not fit, or the port of the
            metrics is taken.
    """
    targets = numbers(class_targets, "class target", "realtime=50, in milliseconds")
    if problems := target_problems(targets):
        raise CommandFailed(ExitCode.BAD_INPUT, "\n".join(problems))
    if tick_s <= 0 or lease_s < LEAST_LEASE_TICKS * tick_s:
        raise CommandFailed(ExitCode.BAD_INPUT, lease_problem(lease_s, tick_s))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with created_store(url) as store:
        controller = _controller(
            store, models, process_leadership(store.replicas, lease_s), keep_days, targets or None
        )
        metrics = ServerMetrics(None)
        if isinstance(store, SqlStore):
            store.watch(metrics.stated)
        with _metrics_served(terminal, metrics_host, metrics_port, metrics):
            terminal.say("controlling")
            run_rounds(controller, tick_s=tick_s, stop=stop, metrics=metrics, leader=store.replicas.leader)


@contextmanager
def _metrics_served(
    terminal: Terminal, host: str, port: int | None, metrics: ServerMetrics
) -> Iterator[None]:
    try:
        opened = open_metrics_port(host, port, metrics.registry())
    except InvalidSettings as error:
        raise CommandFailed(ExitCode.FAILURE, str(error)) from error
    if opened is not None:
        terminal.say(f"{METRICS}{opened.address}")
    try:
        yield
    finally:
        if opened is not None:
            opened.close()


def run_tick(
    terminal: Terminal, url: str, models: Path, name: str | None, output: Format, *, tells_by_status: bool
) -> ExitCode:
    """Do one round; answers the exit status.

    Raises:
        CommandFailed: If another controller leads, or there is no such experiment.
    """
    with existing_store(url) as store:
        if name is not None:
            find_experiment(store, name)
        before = store.experiments()
        _one_round(store, models)
        after = store.experiments()
        views = tick_views(before, after, _decided(store, before, after), name)
    _show(terminal, views, output)
    return EXIT_CODES[overall(views)] if tells_by_status else ExitCode.OK


def _one_round(store: Store, models: Path) -> None:
    leadership = process_leadership(store.replicas, ONE_TICK_S)
    controller = _controller(store, models, leadership, KEEP_DAYS)
    try:
        controller.run_once()
        if leadership.lease is None:
            leader = store.replicas.leader()
            raise CommandFailed(
                ExitCode.CONFLICT,
                f"{leader.holder if leader else 'another controller'} leads on this store: nothing was done",
                "run servers with `--controller elsewhere` where a job does the ticks",
            )
        # What a gate answers now is heard by the next tick.
        controller.finish_webhooks()
    finally:
        controller.step_down()


def _decided(
    store: Store, before: Iterable[StoredExperiment], after: Iterable[StoredExperiment]
) -> dict[str, str]:
    counts = {kept.name: kept.state.decisions for kept in before}
    return {
        kept.name: store.decisions(kept.name)[-1].decision.summary
        for kept in after
        if kept.state.decisions > counts.get(kept.name, 0)
    }


def _controller(
    store: Store,
    models: Path,
    leadership: Candidate,
    keep_days: float,
    class_targets_ms: Mapping[str, float] | None = None,
) -> Controller:
    try:
        return standalone_controller(
            store, models, leadership, keep_days=keep_days, class_targets_ms=class_targets_ms
        )
    except (FileNotFoundError, LookupError) as error:
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            str(error),
            "the controller reads the manifests of the variants: pass --models",
        ) from error


def _show(terminal: Terminal, views: list[TickView], output: Format) -> None:
    if output is not Format.TABLE:
        terminal.say(encoded(views, output))
        return
    if not views:
        terminal.note("nothing to do: no experiment is going on")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("EXPERIMENT", "PHASE", "OUTCOME", "DECIDED"):
        table.add_column(heading)
    for view in views:
        table.add_row(view.name, str(view.phase), str(view.outcome), view.decided or "-")
    terminal.show(table)
