"""A controller process of a drill: the server's own controller and its rule for a tick that fails."""

import json
import os
import time

from anabranch.bandit.snapshot import Snapshot
from anabranch.router.controller import Controller
from anabranch.store.sql import open_store
from bench.faults.world import BASELINE, MODEL, World, manifests


def run(world: World, said: int) -> None:
    """Tick until killed.

    Args:
        world: Where the store and the journal are.
        said: Where every publication and every failed tick is written, a line each.
    """
    store = open_store(world.url)

    def wall_clock() -> float:
        return time.time() + float(world.clock.read_text())

    def publish(snapshot: Snapshot) -> None:
        route = snapshot.routes[MODEL]
        # Said first: had it died after the writers saw it, nobody would know what they were told.
        weights = dict(zip(route.arms, route.layout.weights, strict=True))
        _say(said, {"at_s": time.monotonic(), "epoch": route.epoch, "weights": weights})
        world.write_snapshot(snapshot)

    controller = Controller(
        store,
        world.journal,
        manifests=manifests(),
        baselines={MODEL: BASELINE},
        wall_clock=wall_clock,
        publish=publish,
    )
    controller.publish()
    while True:
        try:
            controller.run_once()
        except Exception as error:  # noqa: BLE001  # as the server does: a tick that fails is tried again
            _say(said, {"failed": f"{type(error).__name__}: {error}"[:300]})
        time.sleep(0.02)


def _say(said: int, line: dict[str, object]) -> None:
    os.write(said, json.dumps(line).encode() + b"\n")
