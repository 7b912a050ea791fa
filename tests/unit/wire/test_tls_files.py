"""When a port's TLS files are read again."""

import os
import shutil
from pathlib import Path

import pytest

from anabranch.wire.certificate_end import certificate_end
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


def test_files_that_are_gone_change_nothing(
    files: TlsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = (tmp_path / "server.key").read_bytes()
    (tmp_path / "server.key").unlink()
    assert not files.follow()
    assert f"no file {tmp_path / 'server.key'}" in caplog.text
    (tmp_path / "server.key").write_bytes(kept)
    os.utime(tmp_path / "server.key")
    assert files.follow()


def test_a_certificate_that_has_ended_is_told_of_when_it_is_read(
    files: TlsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "ended" not in caplog.text
    for kind in ("pem", "key"):
        shutil.copy(OLD / f"ended.{kind}", tmp_path / f"server.{kind}")
    assert files.follow()
    assert f"the certificate in {tmp_path / 'server.pem'} ended at 2020-01-02T00:00:00+00:00" in caplog.text
    caplog.clear()
    TlsFiles(Tls(certificate_file=OLD / "ended.pem", key_file=OLD / "ended.key"))
    assert "ended at 2020-01-02" in caplog.text


@pytest.mark.parametrize(("name", "year"), [("ended.pem", 2020), ("server.pem", 2126)])
def test_both_ways_to_write_a_time_are_read(name: str, year: int) -> None:
    assert certificate_end(OLD / name).year == year


def test_what_is_no_certificate_has_no_end(tmp_path: Path) -> None:
    whole = (OLD / "server.pem").read_text()
    lines = whole.splitlines()
    for number, text in enumerate(("", "text", "\n".join([*lines[:2], lines[-1]]), whole.replace("A", "B"))):
        path = tmp_path / f"{number}.pem"
        path.write_text(text)
        with pytest.raises(ValueError, match=str(path)):
            certificate_end(path)
