import socket
from pathlib import Path
from typing import Any

import pytest

from anabranch.cli.failures import CommandFailed
from anabranch.cli.serving import require_port

Shell = Any


def test_a_port_that_is_taken_is_said_at_once_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CommandFailed, match=f"cannot serve on 127.0.0.1:{port}: Address already in use"):
            require_port("127.0.0.1", port)
    require_port("127.0.0.1", port)


def test_an_address_of_another_machine_is_said_at_once() -> None:
    with pytest.raises(CommandFailed, match=r"cannot serve on 192\.0\.2\.1:0"):
        require_port("192.0.2.1", 0)


def test_a_store_that_is_none_is_refused_before_anything_is_begun(shell: Shell, tmp_path: Path) -> None:
    ran = shell("serve", "--store", "mysql://ada@db/x", "--state", str(tmp_path / "state"))
    assert ran.code == 2
    assert "'mysql://ada@db/x' is not a store URL" in ran.err
    assert not (tmp_path / "state").exists()
