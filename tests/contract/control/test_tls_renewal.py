"""TLS files that change under a running port, on both wires: nobody who is connected is cut, and nobody new sees the old ones."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anabranch.client import errors
from anabranch.client.target import Credentials
from anabranch.router.control.port import PortSettings
from anabranch.wire.choice import WireKind
from anabranch.wire.seam import Tls

Bench = Any
TLS = Path(__file__).parents[1] / "wire" / "tls"
OLD, NEW = TLS, TLS / "other"


def install(source: Path, folder: Path, *names: str) -> None:
    """As a renewal does it: whole files, each put in place at once."""
    for name in names or ("server.pem", "server.key", "ca.pem"):
        fresh = folder / f"{name}.new"
        shutil.copy(source / name, fresh)
        os.utime(fresh)
        fresh.rename(folder / name)


def caller(source: Path) -> Credentials:
    return Credentials(
        ca_file=source / "ca.pem",
        certificate_file=source / "client.pem",
        key_file=source / "client.key",
    )


@pytest.fixture(params=list(WireKind))
def secured(request: pytest.FixtureRequest, start: Callable[..., Bench], tmp_path: Path) -> Bench:
    install(OLD, tmp_path)
    identities = tmp_path / "identities.yaml"
    identities.write_text(
        "identities: {client: {role: viewer}, 'spiffe://example.org/ci': {role: operator, models: [m]}}"
    )
    tls = Tls(
        certificate_file=tmp_path / "server.pem",
        key_file=tmp_path / "server.key",
        client_ca_file=tmp_path / "ca.pem",
    )
    return start(settings=PortSettings(tls=tls, identities=identities, wire=request.param))


def eventually(attempt: Callable[[], object]) -> None:
    give_up = time.monotonic() + 30.0
    while True:
        try:
            attempt()
        except errors.CallFailed:
            if time.monotonic() > give_up:
                raise
            threading.Event().wait(0.05)
        else:
            return


def who(bench: Bench, source: Path) -> str:
    given = caller(source)
    fields = {name: getattr(given, name) for name in ("ca_file", "certificate_file", "key_file")}
    with bench.client(**fields) as client:
        return str(client.who_am_i().actor)


def test_renewed_files_serve_new_connections_and_cut_no_old_one(secured: Bench, tmp_path: Path) -> None:
    fields = {
        "ca_file": OLD / "ca.pem",
        "certificate_file": OLD / "client.pem",
        "key_file": OLD / "client.key",
    }
    with secured.client(**fields) as old:
        assert old.who_am_i().actor == "certificate:client"
        install(NEW, tmp_path)
        eventually(lambda: who(secured, NEW))
        assert who(secured, NEW) == "certificate:spiffe://example.org/ci"
        # The authority that is gone lets nobody in any more, and the connection that is there goes on.
        with pytest.raises(errors.Unavailable):
            who(secured, OLD)
        assert old.who_am_i().actor == "certificate:client"
