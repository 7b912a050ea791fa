"""Whether a server works on a database: what is asked of an experiment waits for one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from anabranch.cli.connection import serve_command, sqlite_path
from anabranch.cli.servers import is_server

_LOCK = "server.lock"
"""Held in the state folder by the server that uses it; see `router.settings`."""


def is_served(url: str) -> bool | None:
    """Whether a server holds the folder of a database file; None where that cannot be known from here.

    Args:
        url: The store's.
    """
    path = None if is_server(url) else sqlite_path(url)
    if path is None:
        return None
    lock = Path(path).parent / _LOCK
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return None
    try:
        # Shared, so that two commands that ask at once do not see each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def standstill(url: str) -> str:
    """Why nothing will move, and what to do; empty where a server runs or may run."""
    if is_served(url) is not False:
        return ""
    return f"no server runs on this store, so nothing moves: start it with {serve_command(url)}"
