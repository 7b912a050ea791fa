"""When a port's TLS files are read again."""

import os
import shutil
from pathlib import Path

import pytest

from anabranch.wire.seam import Tls
from anabranch.wire.tls_files import TlsFiles

OLD = Path(__file__).parents[2] / "contract" / "wire" / "tls"
NEW = OLD / "other"


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    for name in ("server.pem", "server.key", "ca.pem"):
        shutil.copy(OLD / name, tmp_path / name)
    return TlsFiles(
        Tls(
            certificate_file=tmp_path / "server.pem",
            key_file=tmp_path / "server.key",
            client_ca_file=tmp_path / "ca.pem",
        )
    )


def test_files_that_stay_are_read_once(files: TlsFiles) -> None:
    assert not files.follow()


def test_half_a_renewal_changes_nothing_until_it_is_whole(
    files: TlsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(NEW / "server.pem", tmp_path / "server.pem")
    assert not files.follow()
    assert "make no server" in caplog.text
    # Said once, not once a look.
    caplog.clear()
    assert not files.follow()
    assert not caplog.messages
    shutil.copy(NEW / "server.key", tmp_path / "server.key")
    assert files.follow()


def test_files_that_are_gone_change_nothing(files: TlsFiles, tmp_path: Path) -> None:
    kept = (tmp_path / "server.key").read_bytes()
    (tmp_path / "server.key").unlink()
    assert not files.follow()
    (tmp_path / "server.key").write_bytes(kept)
    os.utime(tmp_path / "server.key")
    assert files.follow()
