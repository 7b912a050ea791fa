"""The controller as a process of its own, or for one round: it moves experiments on, and serves nothing."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from anabranch.router.complaints import Complaints
from anabranch.router.controller import Controller
from anabranch.router.leadership import Leadership
from anabranch.router.metrics.server import ServerMetrics
from anabranch.router.models import find_manifests
from anabranch.router.upkeep import Upkeep
from anabranch.router.webhooks.policy import policy_from
from anabranch.router.webhooks.runner import Webhooks
from anabranch.store.lease import LeaseRecord
from anabranch.store.outage import outage
from anabranch.store.port import Store

_log = logging.getLogger(__name__)


def standalone_controller(
    store: Store,
    models: Path,
    leadership: Leadership,
    *,
    keep_days: float,
    class_targets_ms: Mapping[str, float] | None = None,
) -> Controller:
    """A controller that reads no journal and publishes to nobody: routers do both, over the same store.

    Args:
        store: Where experiments and evidence are.
        models: Folder of built variants, as the routers have it; only their manifests are read.
        leadership: Whether it leads.
        keep_days: How long single requests of an ended experiment are remembered.
        class_targets_ms: By class of priority, as the routers have them; None leaves what is known.

    Raises:
        FileNotFoundError: If there are no variants.
    """
    return Controller(
        store,
        None,
        manifests=find_manifests(models),
        baselines={},
        wall_clock=time.time,
        publish=lambda _snapshot: None,
        leadership=leadership,
        upkeep=Upkeep(store.upkeep, keep_days=keep_days, wall_clock=time.time),
        webhooks=Webhooks(store, policy_from(os.environ), wall_clock=time.time),
        class_targets_ms=class_targets_ms,
    )


def run_rounds(
    controller: Controller,
    *,
    tick_s: float,
    stop: threading.Event,
    metrics: ServerMetrics | None = None,
    leader: Callable[[], LeaseRecord | None] = lambda: None,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Do one round after another until told to stop, then step down; a round that fails is tried again.

    Args:
        controller: What does them.
        tick_s: Time from the beginning of one round to that of the next.
        stop: Set when it shall end.
        metrics: Told of every round; None where nobody asks.
        leader: Who leads, for the metrics.
        monotonic: A clock, in seconds.
    """
    complaints = Complaints(monotonic)
    while not stop.is_set():
        begun = monotonic()
        try:
            controller.run_once()
            if metrics is not None:
                metrics.ticked(
                    monotonic() - begun, None, controller.experiments, own=controller.lease, leader=leader()
                )
        except Exception as error:  # noqa: BLE001  # nothing was half-written: what failed now may work next time
            if metrics is not None:
                metrics.tick_failed()
            complain(complaints, error)
        if metrics is not None:
            metrics.looked((), 0)
        stop.wait(max(0.0, tick_s - (monotonic() - begun)))
    try:
        controller.step_down()
    except Exception as error:  # noqa: BLE001  # the lease ends by itself
        complain(complaints, error)


def complain(complaints: Complaints, error: Exception) -> None:
    """Log that a round failed: an outage on one line, and not with every round; what nobody expected in whole."""
    reason = outage(error)
    if reason is None:
        _log.error("a tick failed", exc_info=error)
    else:
        complaints.say("the store cannot be used now, routing goes on by the last snapshot", reason)
