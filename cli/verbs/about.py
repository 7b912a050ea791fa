"""`version`: what is installed."""

from __future__ import annotations

import platform
from importlib import metadata

import typer

from anabranch.cli import options
from anabranch.cli.format import Format
from anabranch.cli.output import encoded
from anabranch.cli.terminal import terminal_of
from anabranch.proto.native import describe_native


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(rich_help_panel=options.ABOUT)(version)


def version(context: typer.Context, output: options.Output = Format.TABLE) -> None:
    """Print the version.

    Example: anabranch version -o json
    """
    if output is Format.TABLE:
        terminal_of(context).say(version_text())
        return
    installed = {
        "anabranch": metadata.version("anabranch"),
        "native": describe_native(),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    terminal_of(context).say(encoded(installed, output))


def version_text() -> str:
    """What is installed, on one line."""
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"anabranch {metadata.version('anabranch')} ({python}; {describe_native()})"
