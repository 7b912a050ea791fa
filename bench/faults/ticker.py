"""A controller process of a drill: the server's own controller and its rule for a tick that fails."""

import json
import os
import time

from anabranch.bandit.decision import Decision
from anabranch.bandit.snapshot import Snapshot
from anabranch.router.controller import Controller
from anabranch.router.leadership import Alone, Candidate
from anabranch.store.lease import holder_name
from anabranch.store.sql import SqlStore, open_store
from bench.faults.world import BASELINE, LEASE_S, MODEL, World, manifests

_ROUND_S = 0.02


def run(world: World, said: int, *, is_rival: bool = False) -> None:
    """Tick until killed.

    Args:
        world: Where the store and the journal are.
        said: Where every publication, every saved decision and every failed tick is written, a line each.
        is_rival: Whether another controller lives at this place too.
    """
    store = _open_store(world, said)
    # Only one lives at a place, or its next life would take over from one that lives.
    place = f"{'rival' if is_rival else 'place'}-{world.place}"
    leadership = (
        Candidate(store.replicas, holder_name(place, str(os.getpid())), LEASE_S)
        if world.is_shared
        else Alone()
    )

    def wall_clock() -> float:
        return time.time() + float(world.clock.read_text())

    def publish(snapshot: Snapshot) -> None:
        route = snapshot.routes[MODEL]
        # Said first: had it died after the writers saw it, nobody would know what they were told.
        weights = dict(zip(route.arms, route.layout.weights, strict=True))
        _say(said, {"at_s": time.monotonic(), "epoch": route.epoch, "weights": weights})
        world.write_snapshot(snapshot)

    def decided(_experiment: str, _model: str, decision: Decision) -> None:
        lease = leadership.lease
        token = lease.token if lease is not None else 0
        _say(said, {"decision": decision.number, "token": token, "phase": str(decision.phase)})

    controller = Controller(
        store,
        world.journal,
        manifests=manifests(),
        baselines={MODEL: BASELINE},
        wall_clock=wall_clock,
        publish=publish,
        decided=decided,
        leadership=leadership,
    )
    has_published = False
    while True:
        try:
            if not has_published:
                controller.publish()
                has_published = True
            controller.run_once()
        except Exception as error:  # noqa: BLE001  # as the server does: a tick that fails is tried again
            _say_failed(said, error)
        time.sleep(_ROUND_S)


def _open_store(world: World, said: int) -> SqlStore:
    """Wait for the database as whatever starts a server again does."""
    while True:
        try:
            return open_store(world.url)
        except Exception as error:  # noqa: BLE001  # it is away, or locked
            _say_failed(said, error)
            time.sleep(_ROUND_S)


def _say_failed(said: int, error: Exception) -> None:
    _say(said, {"failed": f"{type(error).__name__}: {error}"[:300]})


def _say(said: int, line: dict[str, object]) -> None:
    os.write(said, json.dumps(line).encode() + b"\n")
