"""`token`, `login`, `logout` and `whoami`: who may do what, and who I am to a server."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anabranch.cli import options
from anabranch.cli.connection import created_store, existing_store, needs_store
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, did_you_mean
from anabranch.cli.format import Format
from anabranch.cli.places import DEFAULT_STORE
from anabranch.cli.terminal import Terminal, terminal_of

if TYPE_CHECKING:
    from anabranch.store.tokens import Token

Server = Annotated[str, typer.Argument(help="Control port of the server, HOST:PORT.", metavar="SERVER")]
TokenName = Annotated[str, typer.Argument(help="Who uses the token.", metavar="NAME")]
Expires = Annotated[
    str,
    typer.Option(
        "--expires", help="Life of the token, such as 12h or 90d; `never` for none.", metavar="TIME"
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    tokens = typer.Typer(help="API tokens: create, list, revoke, rotate.", no_args_is_help=True)
    for command in (create, listed, revoke, rotate):
        tokens.command(name="list" if command is listed else None)(command)
    app.add_typer(tokens, name="token", rich_help_panel=options.ACCESS)
    for verb in (login, logout, whoami):
        app.command(rich_help_panel=options.ACCESS)(verb)


def create(
    context: typer.Context,
    name: TokenName,
    role: Annotated[str, typer.Option("--role", help="viewer, feedback, operator or admin.", metavar="ROLE")],
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Only this model; may be given more than once.")
    ] = None,
    expires: Expires = "90d",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Write the token there, readable by you only, instead of stdout.", metavar="FILE"
        ),
    ] = None,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Make a token; it is shown this once, and what is kept is its digest.

    Example: anabranch token create ci --role operator --model minilm --expires 30d
    """
    from anabranch.store.access import Role
    from anabranch.store.tokens import issue

    terminal = terminal_of(context)
    needs_store(store)
    now = terminal.clock.now()
    known = [each.value for each in Role]
    if role not in known:
        raise CommandFailed(
            ExitCode.BAD_INPUT, f"role {role!r} must be one of {', '.join(known)}{did_you_mean(role, known)}"
        )
    try:
        token, text = issue(
            name=name,
            role=Role(role),
            models=model or [],
            now=now,
            expires_s=_end(expires, now),
            created_by=terminal.actor,
            entropy=secrets.token_bytes,
        )
    except ValueError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from None
    with created_store(store) as opened:
        if any(kept.name == name and kept.is_live(now) for kept in opened.access.tokens()):
            raise CommandFailed(
                ExitCode.CONFLICT,
                f"there is a token {name} that is live",
                f"`anabranch token rotate {name}` renews it, `anabranch token revoke {name}` ends it",
            )
        descriptor = _reserved(out)
        opened.access.save_token(token, verb="token create", actor=terminal.actor, now=now)
    _hand_out(terminal, text, out, descriptor)


def listed(
    context: typer.Context,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Show every token that ever was: role, models, end, last use; never its secret.

    Example: anabranch token list
    """
    from anabranch.cli.output import encoded
    from anabranch.cli.token_views import token_rows, tokens_table

    terminal = terminal_of(context)
    needs_store(store)
    now = terminal.clock.now()
    with existing_store(store) as opened:
        rows = token_rows(opened.access.tokens(), now)
    if output is not Format.TABLE:
        terminal.say(encoded(rows, output))
    elif rows:
        terminal.show(tokens_table(rows, now))
    else:
        terminal.note("no tokens yet: make one with `anabranch token create NAME --role ROLE`")


def revoke(context: typer.Context, name: TokenName, store: options.Store = DEFAULT_STORE) -> None:
    """End a token now, by its name or its id; servers follow with their next tick.

    Example: anabranch token revoke ci
    """
    terminal = terminal_of(context)
    needs_store(store)
    now = terminal.clock.now()
    with existing_store(store) as opened:
        found = _live(opened.access.tokens(), name, now)
        for token in found:
            opened.access.save_token(
                replace(token, revoked_s=now), verb="token revoke", actor=terminal.actor, now=now
            )
    terminal.say(f"token {name}: {len(found)} revoked")


def rotate(
    context: typer.Context,
    name: TokenName,
    expires: Expires = "90d",
    overlap: Annotated[
        str, typer.Option("--overlap", help="How long the former secret still opens.", metavar="TIME")
    ] = "1h",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Write the token there, readable by you only, instead of stdout.", metavar="FILE"
        ),
    ] = None,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Give a token a new secret, with the same role and models; the former one ends after an overlap.

    Example: anabranch token rotate ci --overlap 10m
    """
    from anabranch.store.tokens import issue

    terminal = terminal_of(context)
    needs_store(store)
    now = terminal.clock.now()
    ends_s = _end(overlap, now)
    if ends_s is None:
        raise CommandFailed(ExitCode.BAD_INPUT, "--overlap never would leave both in force: give a time")
    with existing_store(store) as opened:
        former = _live(opened.access.tokens(), name, now)
        newest = max(former, key=lambda token: token.created_s)
        token, text = issue(
            name=newest.name,
            role=newest.role,
            models=newest.models,
            now=now,
            expires_s=_end(expires, now),
            created_by=terminal.actor,
            entropy=secrets.token_bytes,
        )
        descriptor = _reserved(out)
        opened.access.save_token(token, verb="token rotate", actor=terminal.actor, now=now)
        for each in former:
            opened.access.save_token(each.ended_by(ends_s), verb="token end", actor=terminal.actor, now=now)
    _hand_out(terminal, text, out, descriptor)


def login(
    context: typer.Context,
    server: Server,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="File with the token; - or none reads stdin.", metavar="FILE"),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", help="Authority of the server's certificate, PEM.", metavar="FILE"),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="Your certificate, PEM, for mutual TLS.", metavar="FILE")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="Its private key, PEM.", metavar="FILE")
    ] = None,
) -> None:
    """Keep how to prove who you are to a server, once it was tried; only you can read the file.

    Example: anabranch login router.example:8002 --token-file ci.token
    """
    from anabranch.cli.remote_store import translated
    from anabranch.cli.servers import Login, login_file, place
    from anabranch.cli.servers import keep as keep_login
    from anabranch.client.sync import Client
    from anabranch.client.target import BadTarget, Credentials

    terminal = terminal_of(context)
    token = ""
    if tls_cert is None or token_file is not None:
        token = _token(token_file)
    try:
        with (
            Client(
                server,
                Credentials(token=token or None, ca_file=tls_ca, certificate_file=tls_cert, key_file=tls_key),
                timeout_s=10.0,
            ) as client,
            translated(),
        ):
            caller = client.who_am_i()
    except (BadTarget, OSError) as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from None
    paths = {"ca": tls_ca, "cert": tls_cert, "key": tls_key}
    absolute = {name: "" if path is None else str(path.resolve()) for name, path in paths.items()}
    keep_login(server, Login(token=token, **absolute))
    terminal.say(f"logged in to {place(server)} as {caller.actor}, {caller.role}")
    terminal.note(
        f"kept in {login_file()}; use it with --server {place(server)}, or ANABRANCH_SERVER={place(server)}"
    )


def logout(context: typer.Context, server: Server) -> None:
    """Forget how to log in to a server; its token stays valid until it is revoked.

    Example: anabranch logout router.example:8002
    """
    from anabranch.cli.servers import keep, place

    keep(server, None)
    terminal_of(context).say(f"forgot {place(server)}")


def whoami(
    context: typer.Context,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Say whom a server takes you for, and what you may do there.

    Example: anabranch whoami --server router.example:8002
    """
    from anabranch.cli.output import encoded
    from anabranch.cli.remote_store import translated
    from anabranch.cli.servers import connect, is_server

    terminal = terminal_of(context)
    if not is_server(store):
        terminal.say(f"{terminal.actor}, by the operating system: who can open the store may do everything")
        return
    with connect(store) as client, translated():
        caller = client.who_am_i()
    if output is not Format.TABLE:
        terminal.say(encoded(caller, output))
        return
    models = ", ".join(caller.models) or "every model"
    terminal.say(f"{caller.actor}, {caller.role} of {models}: may {', '.join(caller.permissions)}")


def _live(tokens: list[Token], name: str, now: float) -> list[Token]:
    found = [token for token in tokens if name in (token.name, token.id) and token.is_live(now)]
    if not found:
        known = sorted({token.name for token in tokens if token.is_live(now)})
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"no live token {name!r}; there are: {', '.join(known) or 'none'}{did_you_mean(name, known)}",
        )
    return found


def _end(text: str, now: float) -> float | None:
    from anabranch.store.durations import seconds

    if text == "never":
        return None
    try:
        return now + seconds(text)
    except ValueError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from None


def _reserved(out: Path | None) -> int | None:
    """A new file for a token, readable by its user only; made first, so that no token is made that has no place."""
    if out is None:
        return None
    try:
        return os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandFailed(
            ExitCode.FAILURE, f"cannot write {out}: {error.strerror}", "name a file that is not there yet"
        ) from error


def _hand_out(terminal: Terminal, text: str, out: Path | None, descriptor: int | None) -> None:
    if descriptor is None:
        terminal.say(text)
        terminal.note("this is shown once: keep it where secrets are kept")
        return
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    terminal.note(f"wrote {out}")


def _token(path: Path | None) -> str:
    """A token from a file, from stdin, or typed without being shown."""
    import getpass

    if path is not None and str(path) != "-":
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise CommandFailed(
                ExitCode.BAD_INPUT, f"cannot read {path}: {error.strerror}", "check --token-file"
            ) from error
    if sys.stdin.isatty():
        return getpass.getpass("token: ").strip()
    return sys.stdin.readline().strip()
