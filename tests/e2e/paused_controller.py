"""A controller that stops itself in front of its first save, as a machine that hangs does. Run by test_controllers.py."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from anabranch.router.controller import Controller
from anabranch.router.leadership import Candidate
from anabranch.router.models import find_manifests
from anabranch.store.sql import open_store

url, models, lease_s = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
store = open_store(url)


class Pausing:
    """The store, in front of whose `save` the process stops until somebody continues it."""

    def __getattr__(self, name: str) -> Any:
        if name == "save":
            os.kill(os.getpid(), signal.SIGSTOP)
        return getattr(store, name)


leadership = Candidate(store.replicas, "paused#1", lease_s)
controller = Controller(
    Pausing(),
    None,
    manifests=find_manifests(models),
    baselines={},
    wall_clock=lambda: 2_000.0,
    publish=lambda _: None,
    leadership=leadership,
)
decided = controller.run_once()
print(f"decided {len(decided)}, leads {leadership.hold()}")
store.close()
