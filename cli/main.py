"""The `anabranch` command: assembles the verbs, and turns what goes wrong into messages and exit statuses.

A verb's module is imported when its verb is called or its help is asked for, so that no verb waits for another's imports.
It has `register(app)`, is listed in `GROUPS` with its verbs, and imports what is heavy inside its functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from anabranch.cli.exit_codes import ExitCode, epilogue
from anabranch.cli.failures import did_you_mean, explain
from anabranch.cli.terminal import Terminal, system_terminal

GROUPS: dict[str, tuple[str, ...]] = {
    "running": ("demo", "serve"),
    "controlling": ("controller", "tick"),
    "database": ("db",),
    "building": ("build",),
    "benching": ("bench",),
    "variants": ("variants",),
    "looking": ("get", "describe"),
    "topping": ("top",),
    "forecasting": ("forecast",),
    "feedback": ("feedback",),
    "exporting": ("export",),
    "records": ("history", "report", "events"),
    "evidence": ("verify", "certificate", "replay"),
    "asking": ("promote", "pause", "resume", "abort", "retry", "undo", "approve"),
    "starting": ("init", "doctor"),
    "planning": ("plan",),
    "documents": ("apply", "diff", "schema"),
    "simulating": ("simulate",),
    "access": ("token", "login", "logout", "whoami"),
    "about": ("version",),
}
"""The verbs by the module below `cli/verbs` that registers them, in the order of `--help`."""


class _Commands(TyperGroup):
    """Finds a verb in its module; answers a domain error with its message, its advice and its exit status."""

    def list_commands(self, _ctx: Any) -> list[str]:
        """Every verb, in the order of `--help`."""
        return [verb for verbs in GROUPS.values() for verb in verbs]

    def get_command(self, _ctx: Any, cmd_name: str) -> Any:
        """The verb, its module imported; None when there is none of that name."""
        module = next((module for module, verbs in GROUPS.items() if cmd_name in verbs), None)
        if module is not None and cmd_name not in self.commands:
            app = typer.Typer()
            import_module(f"anabranch.cli.verbs.{module}").register(app)
            self.commands.update(typer.main.get_group(app).commands)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that was typed; near ones are named where there is none."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            ctx.fail(
                f"there is no verb {args[0]!r}{did_you_mean(args[0], known) or ': see anabranch --help'}"
            )
        return super().resolve_command(ctx, args)

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
        from anabranch.cli.verbs.about import version_text

        typer.echo(version_text())
        raise typer.Exit()


def assemble() -> typer.Typer:
    """The command with all of its verbs."""
    return typer.Typer(
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


def main() -> None:
    """Run the command of this process."""
    assemble()()


if __name__ == "__main__":
    main()
