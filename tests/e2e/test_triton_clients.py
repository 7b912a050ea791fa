"""Triton's own Python clients, sync and asyncio, against both wires."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

Served = Any
_HERE = Path(__file__).parent


def run(program: str, *arguments: str) -> Any:
    """Run one of the programs beside this file; answers what it printed."""
    ran = subprocess.run(
        [sys.executable, str(_HERE / program), *arguments], capture_output=True, text=True, timeout=200
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_every_check_passes(shared: Served) -> None:
    found = run("triton_checks.py", shared.address)
    assert len(found) == 14
    assert {name: said for name, said in found.items() if said != "ok"} == {}


def test_a_message_over_the_limit_is_refused_and_the_connection_goes_on(shared: Served) -> None:
    found = run("triton_large.py", shared.address, "65")
    assert found["status"] == "StatusCode.RESOURCE_EXHAUSTED"
    assert run("triton_large.py", shared.address, "1") == {"rows": 4096, "last": True}


@pytest.mark.parametrize("wire", ["ngh2", "grpcio"])
def test_a_tensor_of_256_mebibytes_is_answered_in_bounded_memory(
    serve: Callable[..., Served], wire: str
) -> None:
    served = serve(wire=wire, **{"max-message-bytes": 300_000_000})
    assert run("triton_large.py", served.address, "1")["last"]
    (worker,) = served.workers()
    before = psutil.Process(worker.pid).memory_info().rss
    # Without this limit the worker could hold any number of copies.
    worker.rlimit(resource.RLIMIT_AS, (worker.memory_info().vms + (6 << 28), resource.RLIM_INFINITY))
    assert run("triton_large.py", served.address, "256") == {"rows": 1 << 20, "last": True}
    assert run("triton_large.py", served.address, "1")["last"]
    grown = psutil.Process(worker.pid).memory_info().rss - before
    assert grown < 640 << 20, "what the large request took is given back, but for the model's own buffers"
