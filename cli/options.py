"""Arguments and options that verbs share, and the completion of experiment names."""

from __future__ import annotations

from typing import Annotated

import typer

from anabranch.cli.connection import DEFAULT_STORE, existing_store
from anabranch.cli.failures import CommandFailed
from anabranch.cli.output import Format

RUN = "Run"
LOOK = "Look"
CHANGE = "Change"
DOCUMENTS = "Documents"
ABOUT = "About"
"""Panels of `--help`, in the order in which their first verb is registered."""


def complete_name(context: typer.Context, incomplete: str) -> list[str]:
    """Names of experiments for the shell; nothing at all when the store cannot be read."""
    url = context.params.get("store") or DEFAULT_STORE
    try:
        with existing_store(str(url)) as store:
            return [kept.name for kept in store.experiments() if kept.name.startswith(incomplete)]
    except CommandFailed:
        return []


Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="ANABRANCH_STORE",
        help="Where everything is kept: sqlite:///PATH or postgresql://USER@HOST/NAME.",
        metavar="URL",
    ),
]
Name = Annotated[
    str, typer.Argument(help="Name of the experiment.", metavar="NAME", autocompletion=complete_name)
]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]
File = Annotated[
    str,
    typer.Option("--file", "-f", help="The experiment document, YAML or JSON; - for stdin.", metavar="FILE"),
]
