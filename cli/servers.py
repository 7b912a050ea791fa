"""Which server a command means, and how it proves who asks: `--server`, the environment, and what `login` keeps.

What `login` keeps is one JSON file that only its user can read. Tokens never come from the command line, which everybody
on the machine can see.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed

if TYPE_CHECKING:
    from anabranch.client.sync import Client
    from anabranch.client.target import Credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What is kept of one server."""

    token: str = field(default="", repr=False)
    ca: str = ""
    cert: str = ""
    key: str = ""


def login_file() -> Path:
    """Where logins are kept."""
    given = os.environ.get("ANABRANCH_LOGINS")
    if given:
        return Path(given)
    folder = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(folder) / "anabranch" / "logins.json"


def is_server(text: str) -> bool:
    """Whether a text names a server, and no store."""
    from anabranch.client.target import is_target

    return is_target(text)


def connect(server: str, *, timeout_s: float = 30.0) -> Client:
    """A client of a server, as the caller proves to be it.

    Raises:
        CommandFailed: The address or a file is wrong, or a token would leave in plain text.
    """
    from anabranch.client.sync import Client
    from anabranch.client.target import BadTarget

    try:
        return Client(server, credentials(server), timeout_s=timeout_s)
    except BadTarget as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from None
    except OSError as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"cannot read {error.filename}: {error.strerror}",
            "check ANABRANCH_TOKEN_FILE, ANABRANCH_TLS_CA, ANABRANCH_TLS_CERT and ANABRANCH_TLS_KEY",
        ) from error


def credentials(server: str) -> Credentials:
    """How to prove who asks a server: the environment first, then what `login` keeps.

    Raises:
        OSError: A file that the environment names cannot be read.
    """
    from anabranch.client.target import Credentials, token_from_environment

    kept = logins().get(place(server), Login())

    def path(variable: str, otherwise: str) -> Path | None:
        given = os.environ.get(variable) or otherwise
        return Path(given) if given else None

    return Credentials(
        token=token_from_environment() or kept.token or None,
        ca_file=path("ANABRANCH_TLS_CA", kept.ca),
        certificate_file=path("ANABRANCH_TLS_CERT", kept.cert),
        key_file=path("ANABRANCH_TLS_KEY", kept.key),
    )


def place(server: str) -> str:
    """A server without its scheme: one login is for it however it is written."""
    return server.rpartition("://")[2].rstrip("/")


def logins() -> dict[str, Login]:
    """What is kept, by server.

    Raises:
        CommandFailed: The file is damaged, or others can read it.
    """
    path = login_file()
    try:
        mode = path.stat().st_mode
        kept: Any = json.loads(path.read_text(encoding="utf-8"))
        found = {name: Login(**fields) for name, fields in kept.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT, f"{path} cannot be read as logins: {error}", "log in again"
        ) from None
    if mode & 0o077:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"others can read the tokens in {path}",
            f"run `chmod 600 {path}`, and rotate the tokens in it",
        )
    return found


def keep(server: str, login: Login | None) -> None:
    """Keep how to log in to a server; None forgets it."""
    found = logins()
    if login is None:
        found.pop(place(server), None)
    else:
        found[place(server)] = login
    fields = ("token", "ca", "cert", "key")
    text = json.dumps(
        {name: {each: getattr(kept, each) for each in fields} for name, kept in sorted(found.items())},
        indent=2,
    )
    path = login_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    # Never readable by others, not for a moment; and whole, or not at all.
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    fresh.rename(path)
