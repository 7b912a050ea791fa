import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from anabranch.variants import packages
from anabranch.variants.errors import FetchError
from anabranch.variants.packages import (
    PackageKind,
    PinnedPackage,
    default_cache_dir,
    fetch_package,
    file_sha256,
    read_member,
    unpack_members,
)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("thing/data.txt", "hello")
        file.writestr("../outside.txt", "bad")
    return path


def _pinned(path: Path, sha256: str) -> PinnedPackage:
    return PinnedPackage(
        name="thing", version="1.0", kind=PackageKind.WHEEL, filename=path.name, sha256=sha256
    )


def _store(path: Path, cache: Path) -> Path:
    stored = cache / "packages" / path.name
    stored.parent.mkdir(parents=True)
    stored.write_bytes(path.read_bytes())
    return stored


def test_a_cached_file_of_the_right_digest_is_not_downloaded_again(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = _store(wheel, tmp_path / "cache")
    monkeypatch.setattr(packages, "_download", None)
    assert fetch_package(_pinned(wheel, file_sha256(wheel)), tmp_path / "cache") == stored


def test_a_cached_file_of_another_digest_is_replaced_by_the_download(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = _store(wheel, tmp_path / "cache")
    stored.write_bytes(b"damaged")
    monkeypatch.setattr(packages, "_download", lambda *_: wheel)
    digest = file_sha256(wheel)
    fetch_package(_pinned(wheel, digest), tmp_path / "cache")
    assert file_sha256(stored) == digest


def test_other_bytes_than_the_pinned_ones_are_refused_with_both_digests(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_download", lambda *_: wheel)
    digest = file_sha256(wheel)
    with pytest.raises(FetchError, match=f"{digest}, must be {'0' * 64}"):
        fetch_package(_pinned(wheel, "0" * 64), tmp_path / "cache")
    assert not (tmp_path / "cache" / "packages" / wheel.name).exists()


def test_pip_checks_the_digest_of_a_real_download(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(_installable_wheel(tmp_path)))
    good = tmp_path / "links" / "thing-1.0-py3-none-any.whl"
    assert fetch_package(_pinned(good, file_sha256(good)), tmp_path / "one").read_bytes() == good.read_bytes()
    with pytest.raises(FetchError, match=r"could not download thing==1\.0"):
        fetch_package(_pinned(good, "0" * 64), tmp_path / "two")


def _installable_wheel(tmp_path: Path) -> Path:
    links = tmp_path / "links"
    links.mkdir()
    with zipfile.ZipFile(links / "thing-1.0-py3-none-any.whl", "w") as file:
        info = "thing-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return links


def test_members_of_a_wheel_are_unpacked_under_their_new_names(wheel: Path, tmp_path: Path) -> None:
    unpack_members(wheel, {"thing/data.txt": "inner/x.txt"}, tmp_path / "out")
    assert (tmp_path / "out" / "inner" / "x.txt").read_text() == "hello"
    assert [path.name for path in (tmp_path / "out" / "inner").iterdir()] == ["x.txt"]


@pytest.mark.parametrize("target", ["../x", "/x", "a/../../x", ""])
def test_a_target_outside_the_folder_is_refused(wheel: Path, tmp_path: Path, target: str) -> None:
    with pytest.raises(FetchError, match="leaves"):
        unpack_members(wheel, {"thing/data.txt": target}, tmp_path / "out")


def test_a_missing_member_is_named(wheel: Path) -> None:
    with pytest.raises(FetchError, match=r"thing/other\.txt"):
        read_member(wheel, "thing/other.txt")


def test_a_member_of_a_tar_archive_is_read_and_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        info = tarfile.TarInfo("a.txt")
        info.size = 2
        file.addfile(info, io.BytesIO(b"hi"))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
    assert read_member(path, "a.txt") == b"hi"
    with pytest.raises(FetchError, match="regular file"):
        read_member(path, "folder")


def test_a_damaged_archive_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(FetchError, match="delete it"):
        read_member(tmp_path / "x.tar.gz", "a")


def test_the_cache_follows_the_environment() -> None:
    assert default_cache_dir({"XDG_CACHE_HOME": "/elsewhere"}) == Path("/elsewhere/anabranch")
    assert default_cache_dir({}) == Path.home() / ".cache" / "anabranch"
