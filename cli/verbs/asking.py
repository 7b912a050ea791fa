"""`promote`, `pause`, `resume`, `abort`, `retry`, `undo`: ask something of an experiment; its next tick answers."""

from __future__ import annotations

from typing import Annotated

import typer

from anabranch.bandit.decision import Verb
from anabranch.cli import options
from anabranch.cli.connection import DEFAULT_STORE, existing_store, find_experiment
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.terminal import terminal_of

_NEXT = {
    Verb.PROMOTE: "the promotion begins with the controller's next tick, whatever the verdicts",
    Verb.PAUSE: "weights stay as they are from the controller's next tick on; go on with `anabranch resume {name}`",
    Verb.RESUME: "the steps go on with the controller's next tick",
    Verb.ABORT: "{baseline} serves all traffic from the controller's next tick on",
    Verb.RETRY: "the experiment begins again at its first step, with every candidate and fresh evidence",
    Verb.UNDO: "{baseline} serves all traffic again from the controller's next tick on",
}

Wait = Annotated[bool, typer.Option("--wait", help="Wait for the tick that answers.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait at most, with --wait.", min=0)]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for command in (promote, pause, resume, abort, retry, undo):
        app.command(rich_help_panel=options.CHANGE)(command)


def promote(
    context: typer.Context,
    name: options.Name,
    variant: Annotated[
        str,
        typer.Option("--variant", help="Which candidate; needed when several are live.", show_default=False),
    ] = "",
    wait: Wait = False,
    timeout: Timeout = 30.0,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Promote a candidate now, by the spec's promote step, whatever the verdicts."""
    _ask(context, store, name, Verb.PROMOTE, variant, timeout if wait else None)


def pause(
    context: typer.Context,
    name: options.Name,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Hold the experiment where it is; guardrails are still watched."""
    _ask(context, store, name, Verb.PAUSE, "", timeout if wait else None)


def resume(
    context: typer.Context,
    name: options.Name,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Go on after a pause."""
    _ask(context, store, name, Verb.RESUME, "", timeout if wait else None)


def abort(
    context: typer.Context,
    name: options.Name,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """End the experiment; the baseline serves all traffic."""
    _ask(context, store, name, Verb.ABORT, "", timeout if wait else None)


def retry(
    context: typer.Context,
    name: options.Name,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Begin an undecided, rolled back or aborted experiment again."""
    _ask(context, store, name, Verb.RETRY, "", timeout if wait else None)


def undo(
    context: typer.Context,
    name: options.Name,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Take a promotion back; the old baseline serves all traffic."""
    _ask(context, store, name, Verb.UNDO, "", timeout if wait else None)


def _ask(
    context: typer.Context, url: str, name: str, verb: Verb, variant: str, timeout_s: float | None
) -> None:
    from anabranch.cli.requests import await_answer, check_possible, chosen_variant
    from anabranch.store.document import parse

    terminal = terminal_of(context)
    with existing_store(url) as store:
        stored = find_experiment(store, name)
        check_possible(stored, store.pending(name), verb, variant)
        variant = chosen_variant(stored, verb, variant)
        command = store.request(name, verb, variant, terminal.actor, terminal.clock.now())
        what = f"{verb} of {variant}" if variant else str(verb)
        if timeout_s is None:
            terminal.say(f"experiment {name}: {what} requested")
            then = _NEXT[verb].format(name=name, baseline=parse(stored.document).baseline)
            terminal.note(f"{then}\nfollow it with `anabranch get {name} -w`")
            return
        answer = await_answer(
            command,
            lambda: store.decisions(name),
            now=terminal.clock.now,
            wait=terminal.clock.wait,
            timeout_s=timeout_s,
        )
    if answer is None:
        raise CommandFailed(
            ExitCode.FAILURE,
            f"no tick answered within {timeout_s:g} s; the request stays",
            "is `anabranch serve` running on this store?",
        )
    if answer.refused:
        raise CommandFailed(ExitCode.REFUSED, answer.refused)
    terminal.say(f"experiment {name}: {what} done, {answer.decision.phase}: {answer.decision.summary}")
