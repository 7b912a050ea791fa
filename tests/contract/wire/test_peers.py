"""The wire's contract by a client that shares nothing with grpcio: Node's `@grpc/grpc-js`.

Not part of a plain run, as it needs Node and a package from npm: `make conformance` installs the package and runs it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers

_HERE = Path(__file__).parent
_PACKAGES = Path(__file__).parents[3] / ".cache" / "grpc-js" / "node_modules"
_TLS = _HERE / "tls"


@pytest.fixture(scope="module")
def answers(wire: str, launch: Callable[..., Any]) -> dict[str, str]:
    """What each check of `grpc_js/checks.js` found, by its name."""
    node = shutil.which("node")
    assert node, "there is no `node`: install Node 18 or later"
    assert (_PACKAGES / "@grpc" / "grpc-js").is_dir(), f"nothing in {_PACKAGES}: run `make conformance`"
    files = {"certificate_file": str(_TLS / "server.pem"), "key_file": str(_TLS / "server.key")}
    plain = launch(wire, limits={"max_message_bytes": 20 << 20})
    secured = launch(wire, tls=files)
    ran = subprocess.run(
        [
            node,
            str(_HERE / "grpc_js" / "checks.js"),
            plain.address,
            str(_TLS / "ca.pem"),
            f"localhost:{secured.port}",
        ],
        env={**os.environ, "NODE_PATH": str(_PACKAGES)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    plain.stop()
    secured.stop()
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


def test_every_check_of_grpc_js_passes(answers: dict[str, str]) -> None:
    assert len(answers) == 17
    assert {name: found for name, found in answers.items() if found != "ok"} == {}
