"""Arguments and options that verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anabranch.cli.completion import complete_name
from anabranch.cli.format import Format

RUN = "Run"
LOOK = "Look"
CHANGE = "Change"
DOCUMENTS = "Documents"
ACCESS = "Access"
ABOUT = "About"
"""Panels of `--help`, in the order in which their first verb is registered."""


Store = Annotated[
    str,
    typer.Option(
        "--store",
        "--server",
        envvar=["ANABRANCH_SERVER", "ANABRANCH_STORE"],
        help="Where everything is kept, sqlite:///PATH or postgresql://USER@HOST/NAME; or a server's control port, HOST:PORT.",
        metavar="URL|HOST:PORT",
    ),
]
Database = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="ANABRANCH_STORE",
        help="Where everything is kept: sqlite:///PATH or postgresql://USER@HOST/NAME.",
        metavar="URL",
    ),
]
"""For verbs that work on the store itself, and cannot be asked of a server."""
Server = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="ANABRANCH_SERVER",
        help="A server's control port instead of what is on this machine.",
        metavar="HOST:PORT",
        show_default=False,
    ),
]
Models = Annotated[
    Path, typer.Option("--models", envvar="ANABRANCH_MODELS", help="Folder of built variants.", metavar="DIR")
]
Name = Annotated[
    str, typer.Argument(help="Name of the experiment.", metavar="NAME", autocompletion=complete_name)
]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Go on, and show what comes.")]
Refresh = Annotated[float, typer.Option("--refresh", help="Seconds between two looks with --watch.", min=0.1)]
MetricsPort = Annotated[
    int | None,
    typer.Option(help="Port of Prometheus' /metrics; 0 takes a free one, none is opened by default."),
]
MetricsHost = Annotated[str, typer.Option(help="Address of /metrics, which is read only and not encrypted.")]
KeepDays = Annotated[
    float,
    typer.Option(help="Days for which single requests of an ended experiment are remembered.", min=0.001),
]
File = Annotated[
    str,
    typer.Option("--file", "-f", help="The experiment document, YAML or JSON; - for stdin.", metavar="FILE"),
]
