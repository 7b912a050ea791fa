"""`anabranch serve`, watched: prints one JSON line when a snapshot is published, with the monotonic time just before.

    watched_server.py MODELS STATE PORT EXTRA_ROUTES

With EXTRA_ROUTES every snapshot holds so many experiments more, of models that nobody asks for: what a large
installation's snapshot costs a worker.
"""

import asyncio
import dataclasses
import json
import logging
import sys
import time
from pathlib import Path

from anabranch.bandit.snapshot import Snapshot
from anabranch.router.serve import Server
from anabranch.router.settings import Settings
from bench.dataplane.messages import MLP
from bench.dataplane.models import BASELINE


class WatchedServer(Server):
    """Says when it publishes.

    Args:
        settings: How it runs.
        extra_routes: Experiments added to every snapshot.
    """

    def __init__(self, settings: Settings, extra_routes: int) -> None:
        self._extra_routes = extra_routes
        super().__init__(settings, on_ready=lambda port: print(f"serving on 127.0.0.1:{port}", flush=True))

    def _publish(self, snapshot: Snapshot) -> None:
        route = snapshot.routes.get(MLP)
        if route is not None and len(route.arms) > 1:
            heaviest = max(range(len(route.arms)), key=lambda arm: route.layout.weights[arm])
            more = {
                f"extra-{number}": dataclasses.replace(
                    route,
                    model=f"extra-{number}",
                    experiment=f"extra-{number}",
                    experiment_id=10_000 + number,
                )
                for number in range(self._extra_routes)
            }
            snapshot = dataclasses.replace(snapshot, routes={**snapshot.routes, **more})
            print(json.dumps({"pushed_at": time.monotonic(), "variant": route.arms[heaviest]}), flush=True)
        super()._publish(snapshot)


async def _main() -> None:
    models, state, port, extra_routes = sys.argv[1:]
    settings = Settings(
        models=Path(models),
        state=Path(state),
        baselines={MLP: BASELINE},
        port=int(port),
        threads=1,
        tick_s=0.1,
    )
    await WatchedServer(settings, int(extra_routes)).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(_main())
