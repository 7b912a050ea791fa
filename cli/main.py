"""The `anabranch` command: assembles the verb groups, and turns what goes wrong into messages and exit statuses.

A verb group is a module with `register(app)`; it is listed in `GROUPS` and imports what is heavy inside its verbs.
"""

from __future__ import annotations

from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from anabranch.cli.exit_codes import ExitCode, epilogue
from anabranch.cli.failures import explain
from anabranch.cli.terminal import Terminal, system_terminal
from anabranch.cli.verbs import (
    about,
    asking,
    benching,
    building,
    documents,
    looking,
    records,
    running,
    simulating,
    variants,
)

GROUPS: tuple[ModuleType, ...] = (
    running,
    building,
    benching,
    variants,
    looking,
    records,
    asking,
    documents,
    simulating,
    about,
)


class _Commands(TyperGroup):
    """Answers a domain error with its message, its advice and its exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            failure = explain(error)
            if failure is None:
                raise
            terminal = ctx.obj if isinstance(ctx.obj, Terminal) else system_terminal()
            terminal.note(f"error: {failure.message}", style="bold red")
            if failure.advice:
                terminal.note(failure.advice, style="")
            raise typer.Exit(failure.code) from error
        except KeyboardInterrupt as interruption:
            raise typer.Exit(ExitCode.INTERRUPTED) from interruption


def _whole_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(about.version_text())
        raise typer.Exit()


def assemble() -> typer.Typer:
    """The command with all of its verbs."""
    app = typer.Typer(
        cls=_Commands,
        name="anabranch",
        help="Split live inference traffic between variants of a model, and promote the best one with evidence.",
        epilog=epilogue(),
        no_args_is_help=True,
        invoke_without_command=True,
        callback=_whole_command,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for group in GROUPS:
        group.register(app)
    return app


def main() -> None:
    """Run the command of this process."""
    assemble()()


if __name__ == "__main__":
    main()
