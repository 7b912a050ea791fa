"""Where the bench keeps what it installs, compiles and builds: an ignored folder, so that a second run is quick."""

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache" / "bench"
BINARIES = CACHE / "bin"
MODELS = CACHE / "models"
RESULTS = REPOSITORY / "bench" / "results"
SERVERS = Path(__file__).resolve().parent / "servers"
"""Programs that run in the peers' own environments."""

OUR_PYTHON = Path(sys.executable)
SERVING_PYTHON = Path(os.environ.get("BENCH_SERVING_PYTHON", sys.executable))
"""What `anabranch serve` runs on: another interpreter with the project installed shows what interpreters cost."""


def environment(name: str) -> Path:
    """The virtual environment of one peer."""
    return CACHE / f"venv-{name}"


def peer_python(name: str) -> Path:
    """The interpreter of one peer's environment."""
    return environment(name) / "bin" / "python"
