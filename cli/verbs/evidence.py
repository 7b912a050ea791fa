"""`verify`, `certificate` and `replay`: take decisions again, hand them on, and ask what another policy would have done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli import options
from anabranch.cli.connection import find_experiment, read_plane
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, problem_list
from anabranch.cli.format import Format
from anabranch.cli.output import encoded
from anabranch.cli.places import DEFAULT_STORE
from anabranch.cli.terminal import terminal_of

Decision = Annotated[
    int | None, typer.Option("--decision", help="Number of the decision.", min=1, show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for command in (verify, certificate, replay):
        app.command(rich_help_panel=options.LOOK)(command)


def verify(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the experiment; absent with --certificate.", metavar="[NAME]", show_default=False
        ),
    ] = "",
    decision: Decision = None,
    chain: Annotated[
        bool,
        typer.Option(
            "--chain", help="Check hashes only: quick, and of every spec version's documents and evidence."
        ),
    ] = False,
    file: Annotated[
        str,
        typer.Option(
            "--certificate",
            help="Check a certificate instead, without any store; - for stdin.",
            metavar="FILE",
        ),
    ] = "",
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Take every decision again from the kept evidence: verdicts, weights and what followed must come out the same.

    Also checks that no decision, document or evidence was changed since. Exits with 1 where something does not match.

    Example: anabranch verify minilm-int8 --decision 12
    """
    from anabranch.store.hidden import has_hidden
    from anabranch.store.verify import verify as check
    from anabranch.store.verify import verify_chain

    terminal = terminal_of(context)
    if bool(name) == bool(file):
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            "give the name of an experiment, or --certificate",
            "see `anabranch verify --help`",
        )
    if file:
        _verify_certificate(context, file)
        return
    with read_plane(store) as opened:
        if has_hidden(find_experiment(opened, name).document):
            raise CommandFailed(
                ExitCode.NOT_ALLOWED,
                "hashes cover the whole document, and this server hides addresses of webhooks from viewers",
                "log in as an operator, or let the server recompute: `verify` of anabranch.client",
            )
        found = verify_chain(opened, name) if chain else check(opened, name)
    if decision is not None:
        version = found.decisions[-1].spec_version if found.decisions else 0
        own = [each for each in found.decisions if each.number == decision]
        if not own:
            raise CommandFailed(
                ExitCode.NOT_FOUND, f"{name} has no decision {decision}", f"see `anabranch history {name}`"
            )
        found = found.only(own[-1])
        if own[-1].spec_version != version and not own[-1].is_recomputed:
            terminal.note(
                f"decision {decision} is of spec version {own[-1].spec_version}: its chain is checked only"
            )
    if output is not Format.TABLE:
        terminal.say(encoded(found, output))
    if not found.matches:
        listed = [
            f"decision {bad.number} of spec version {bad.spec_version}: {problem}"
            for bad in found.decisions
            for problem in bad.problems
        ]
        raise CommandFailed(
            ExitCode.FAILURE,
            problem_list(f"the record of {name}", [*listed, *found.problems]),
            "compare the database with a backup; what was served is in the journal",
        )
    if output is not Format.TABLE:
        return
    if not found.decisions:
        terminal.say(f"{name}: no decisions yet, nothing to verify")
        return
    if decision is not None:
        terminal.say(f"{name}: decision {decision} matches")
        return
    terminal.say(f"{name}: {len(found.decisions)} decisions, every hash follows from the one before it")
    terminal.say(f"head {found.head}")
    if not chain:
        terminal.say(
            f"{found.verdicts} verdicts recomputed from the kept evidence: all the same, and all weights"
        )


def certificate(
    context: typer.Context,
    name: options.Name,
    decision: Decision = None,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Print a decision's certificate as JSON: all that it follows from, to be checked without this store.

    Example: anabranch certificate minilm-int8 > proof.json && anabranch verify --certificate proof.json
    """
    from anabranch.store.certificates import certificate_text
    from anabranch.store.verify import certificate_of

    with read_plane(store) as opened:
        find_experiment(opened, name)
        found = certificate_of(opened, name, decision)
    terminal_of(context).say(certificate_text(found))


def replay(
    context: typer.Context,
    name: options.Name,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            help="thompson, plain-thompson, uniform, fixed, or an arm that gets everything; may be given again. By default all algorithms.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option("--metric", help="What is earned; the objective by default.", show_default=False),
    ] = "",
    within: Annotated[
        float | None,
        typer.Option(
            help="Of a latency: the milliseconds that a good request takes at most; what the baseline kept by default.",
            min=0.0,
            show_default=False,
        ),
    ] = None,
    output: options.Output = Format.TABLE,
    store: options.Store = DEFAULT_STORE,
) -> None:
    """Run other policies over the recorded log: which weights they would have set, and what these would have earned.

    Estimates are off-policy, from logged propensities: IPS, SNIPS and doubly robust, with 95 % intervals.

    Example: anabranch replay minilm-int8 --policy uniform --policy onnx-fp32
    """
    from anabranch.cli.replaying import replayed_table, run_replays

    terminal = terminal_of(context)
    with read_plane(store) as opened:
        stored = find_experiment(opened, name)
        log = opened.evidence_log(name)
    report = run_replays(stored, log, policies=policy or [], metric=metric, within_ms=within)
    if output is not Format.TABLE:
        terminal.say(encoded(report, output))
        return
    terminal.note(f"reward: {report.reward}; {report.better} is better")
    terminal.show(replayed_table(report))
    if any(each.left_out for each in report.policies):
        terminal.note(
            "LEFT OUT: outcomes of epochs in which the log had no traffic on an arm that the policy wants"
        )


def _verify_certificate(context: typer.Context, file: str) -> None:
    from pydantic import ValidationError

    from anabranch.bandit.certificate import recompute
    from anabranch.store.certificates import certificate_from

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        found = certificate_from(text)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT, f"cannot read {file}: {error}", "check --certificate"
        ) from error
    except ValidationError as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"{file} is no certificate: {error.error_count()} fields do not fit",
            "see `anabranch certificate`",
        ) from error
    problems = recompute(found)
    if problems:
        raise CommandFailed(ExitCode.FAILURE, problem_list(f"certificate {file}", problems))
    last = found.decision
    terminal_of(context).say(
        f"decision {last.number} of {found.experiment.name} follows from its evidence: "
        f"{len(found.decisions)} decisions taken again, {last.phase}"
    )
