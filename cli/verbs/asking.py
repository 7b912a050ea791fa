"""`promote`, `pause`, `resume`, `abort`, `retry`, `undo`: ask something of an experiment; its next tick answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from anabranch.bandit.decision import Verb
from anabranch.cli import options
from anabranch.cli.completion import complete_candidate
from anabranch.cli.connection import control_plane, find_experiment, serve_command
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.format import Format
from anabranch.cli.liveness import standstill
from anabranch.cli.output import encoded
from anabranch.cli.places import DEFAULT_STORE
from anabranch.cli.terminal import terminal_of

_NEXT = {
    Verb.PROMOTE: "the promotion begins with the controller's next tick, whatever the verdicts",
    Verb.PROMOTE_FULL: "it gets all traffic and becomes the baseline with the controller's next tick, whatever the verdicts",
    Verb.PAUSE: "weights stay as they are from the controller's next tick on; go on with `anabranch resume {name}`",
    Verb.RESUME: "the steps go on with the controller's next tick",
    Verb.ABORT: "{baseline} serves all traffic from the controller's next tick on",
    Verb.RETRY: "the experiment begins again at its first step, with every candidate and fresh evidence",
    Verb.UNDO: "{baseline} serves all traffic again from the controller's next tick on",
    Verb.APPROVE: "the controller's next tick opens the gate",
}

Wait = Annotated[bool, typer.Option("--wait", help="Wait for the tick that answers.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait at most, with --wait.", min=0)]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for command in (promote, pause, resume, abort, retry, undo, approve):
        app.command(rich_help_panel=options.CHANGE)(command)


def promote(
    context: typer.Context,
    name: options.Name,
    variant: Annotated[
        str,
        typer.Option(
            "--variant",
            help="Which candidate; needed when several are live.",
            show_default=False,
            autocompletion=complete_candidate,
        ),
    ] = "",
    full: Annotated[
        bool, typer.Option("--full", help="All traffic at once: without the ramp, its gates and the bake.")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Promote a candidate now, by the spec's promote step, whatever the verdicts.

    With --full, also while that step is under way; `undo` takes it back either way.

    Example: anabranch promote minilm-int8 --variant onnx-mixed --wait
    """
    verb = Verb.PROMOTE_FULL if full else Verb.PROMOTE
    _ask(context, store, name, verb, variant, timeout if wait else None, output)


def pause(
    context: typer.Context,
    name: options.Name,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Hold the experiment where it is; guardrails are still watched.

    Example: anabranch pause minilm-int8
    """
    _ask(context, store, name, Verb.PAUSE, "", timeout if wait else None, output)


def resume(
    context: typer.Context,
    name: options.Name,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Go on after a pause.

    Example: anabranch resume minilm-int8 --wait
    """
    _ask(context, store, name, Verb.RESUME, "", timeout if wait else None, output)


def abort(
    context: typer.Context,
    name: options.Name,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """End the experiment; the baseline serves all traffic.

    Example: anabranch abort minilm-int8 --wait --timeout 10
    """
    _ask(context, store, name, Verb.ABORT, "", timeout if wait else None, output)


def retry(
    context: typer.Context,
    name: options.Name,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Begin an undecided, rolled back or aborted experiment again.

    Example: anabranch retry minilm-int8
    """
    _ask(context, store, name, Verb.RETRY, "", timeout if wait else None, output)


def undo(
    context: typer.Context,
    name: options.Name,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Take a promotion back; the old baseline serves all traffic.

    Example: anabranch undo minilm-int8 --wait
    """
    _ask(context, store, name, Verb.UNDO, "", timeout if wait else None, output)


def approve(
    context: typer.Context,
    name: options.Name,
    gate: Annotated[
        str,
        typer.Argument(help="Which gate; needed when several wait.", metavar="[GATE]", show_default=False),
    ] = "",
    wait: Wait = False,
    timeout: Timeout = 30.0,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Open a gate that the experiment waits for.

    Example: anabranch approve minilm-int8 go-live --wait
    """
    _ask(context, store, name, Verb.APPROVE, gate, timeout if wait else None, output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request came to.

    Attributes:
        request: Its number in the audit log.
        answered_by: Number of the decision that answered it; None while none did.
        phase: Of the experiment, after that decision where there is one.
    """

    experiment: str
    verb: str
    variant: str
    request: int
    answered_by: int | None
    phase: str
    summary: str


def _ask(
    context: typer.Context,
    url: str,
    name: str,
    verb: Verb,
    variant: str,
    timeout_s: float | None,
    output: Format,
) -> None:
    from anabranch.cli.requests import await_answer, check_possible, chosen_variant
    from anabranch.store.document import parse

    terminal = terminal_of(context)
    with control_plane(url) as store:
        stored = find_experiment(store, name)
        check_possible(stored, store.pending(name), verb, variant)
        variant = chosen_variant(stored, verb, variant)
        command = store.request(name, verb, variant, terminal.actor, terminal.clock.now())
        what = f"{verb} of {variant}" if variant else str(verb)
        asked = Asked(
            experiment=name,
            verb=verb,
            variant=variant,
            request=command.id,
            answered_by=None,
            phase=stored.state.phase,
            summary="",
        )
        if timeout_s is None:
            terminal.say(
                f"experiment {name}: {what} requested" if output is Format.TABLE else encoded(asked, output)
            )
            then = _NEXT[verb].format(name=name, baseline=parse(stored.document).baseline)
            terminal.note(f"{then}\nfollow it with `anabranch get {name} -w`")
            if reason := standstill(url):
                terminal.note(reason, style="yellow")
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
            f"is the server running? start it with {serve_command(url)}",
        )
    if answer.refused:
        raise CommandFailed(ExitCode.REFUSED, answer.refused)
    decision = answer.decision
    if output is Format.TABLE:
        terminal.say(f"experiment {name}: {what} done, {decision.phase}: {decision.summary}")
        return
    done = replace(asked, answered_by=decision.number, phase=decision.phase, summary=decision.summary)
    terminal.say(encoded(done, output))
