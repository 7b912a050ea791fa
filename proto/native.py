"""What is compiled from `native/`, where it is and where it may be used.

A compiled file says from which sources it was made; beside others it is not used. `ANABRANCH_NATIVE=off` does without it,
`on` insists on it. `anabranch version` says which way it is.
"""

import hashlib
import os
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

_SWITCH: Final = "ANABRANCH_NATIVE"
_STALE: Final = "it was compiled from other sources than those here: run `make native`"


class _Choice(StrEnum):
    AUTO = ""
    ON = "on"
    OFF = "off"


@cache
def native() -> ModuleType | None:
    """The compiled module; None where Python does its work.

    Raises:
        RuntimeError: The switch asks for what is not there, or is none.
    """
    wanted = os.environ.get(_SWITCH, "")
    if wanted not in tuple(_Choice):
        raise RuntimeError(f"{_SWITCH} is {wanted!r}: leave it out, or give on or off")
    if wanted == _Choice.OFF:
        return None
    found = _load()
    if isinstance(found, ModuleType):
        return found
    if wanted == _Choice.ON:
        raise RuntimeError(f"{_SWITCH} is on, but {found}")
    return None


def describe_native() -> str:
    """Whether the compiled module runs here, and why not."""
    if native() is not None:
        return "compiled"
    if os.environ.get(_SWITCH) == _Choice.OFF:
        return "Python alone, as asked"
    return f"Python alone: {_load()}"


@cache
def _load() -> ModuleType | str:
    try:
        from anabranch import _native
    except ImportError as error:
        return f"nothing is compiled here ({error})"
    digest = sources_digest()
    return _STALE if digest is not None and digest != _native.SOURCE_DIGEST else _native


def sources_digest() -> str | None:
    """The digest of the sources; None where they are not beside the package, as in an installation."""
    sources = sorted(Path(__file__).resolve().parents[1].joinpath("native").glob("*.[ch]"))
    if not sources:
        return None
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
