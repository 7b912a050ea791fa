"""A real PostgreSQL server for tests: its data in a folder of its own, on a Unix socket, gone afterwards. Load by path."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg

_START_S = 60.0
_PAUSE = threading.Event()
# Nobody needs what a test kept after a crash of the machine.
_OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "listen_addresses": "",
    "max_connections": "100",
}


def find_programs() -> Path | None:
    """The folder of PostgreSQL's server programs, the newest there is; None where it is not installed."""
    # Debian keeps them out of the PATH, a folder a version.
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True
    )
    found = shutil.which("initdb")
    places = [*([Path(found).resolve().parent] if found else []), *debian]
    return next((folder for folder in places if (folder / "postgres").exists()), None)


class PostgresServer:
    """A server that can be stopped and started again.

    Args:
        programs: Folder of `initdb` and `postgres`.
        options: Settings of the server, beside and instead of `_OPTIONS`.
        prefix: What its programs are run by, as the present user; by default root gives way to `postgres`.
    """

    def __init__(
        self, programs: Path, options: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
    ) -> None:
        self._programs = programs
        self._options = {**_OPTIONS, **(options or {})}
        self._folder = Path(tempfile.mkdtemp(prefix="anabranch-postgres-"))
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root: Debian's package brings a user for it. Not by Popen's own `user`: that forks,
        # which crashes now and then where a thread of this process is in gRPC.
        self._as = prefix
        if os.getuid() == 0 and not prefix:
            account = pwd.getpwnam("postgres")
            os.chown(self._folder, account.pw_uid, account.pw_gid)
            self._as = ("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups")
        data = str(self._folder / "data")
        subprocess.run(
            [
                *self._as,
                programs / "initdb",
                "--no-sync",
                "--auth=trust",
                "--username=tests",
                "--pgdata",
                data,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )
        with (self._folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\n")
        self.start()

    def start(self) -> None:
        """Run it, and wait until it answers."""
        options = [part for name, value in self._options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._as,
                    self._programs / "postgres",
                    "-D",
                    self._folder / "data",
                    "-k",
                    self._folder,
                    *options,
                ],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        give_up = time.monotonic() + _START_S
        while True:
            try:
                self._connect().close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < give_up, (self._folder / "log").read_text()[-3000:]
                _PAUSE.wait(0.02)

    def stop(self) -> None:
        """End it at once, with every connection, as when its machine goes down."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        """End it, and remove what it kept."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self, template: str = "template1") -> str:
        """Create a database; answers its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        with self._connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, with the connections to it."""
        with self._connect() as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())

    def url(self, database: str, host: str = "") -> str:
        """Where a store finds a database: by a socket of this machine, or at an address that it listens on."""
        return f"postgresql+psycopg://tests@/{database}?host={host or self._folder}"

    def _connect(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(host=str(self._folder), user="tests", dbname="postgres", autocommit=True)
