"""The files of `deploy/`, read, and the command line that they are held against."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from anabranch.cli.main import assemble

REPOSITORY = Path(__file__).parents[3]
DEPLOY = REPOSITORY / "deploy"
Document = dict[str, Any]


def documents_below(folder: Path) -> list[Document]:
    """Every document of every manifest; what kustomize itself reads is left out."""
    return [
        document
        for path in sorted(folder.rglob("*.yaml"))
        if path.name != "kustomization.yaml" and "secrets" not in path.parts
        for document in yaml.safe_load_all(path.read_text())
    ]


def check_command(arguments: Sequence[str]) -> Document:
    """Read arguments as `anabranch` does, without doing anything; answers the options by their names.

    Raises:
        click.UsageError: There is no such verb or option, or a value is none.
    """
    command: Any = typer.main.get_command(assemble())
    left = list(arguments)
    while hasattr(command, "list_commands"):
        assert left, "no verb"
        name = left.pop(0)
        command = command.get_command(None, name)
        assert command is not None, f"no verb {name}"
    with command.make_context(command.name, left) as context:
        given: Document = dict(context.params)
        return given


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture(scope="session")
def parse_command() -> Callable[[Sequence[str]], Document]:
    return check_command


@pytest.fixture(scope="session")
def compose() -> Document:
    read: Document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return read


@pytest.fixture(scope="session")
def base() -> list[Document]:
    return documents_below(DEPLOY / "kubernetes" / "base")


@pytest.fixture(scope="session")
def units() -> dict[str, list[tuple[str, str]]]:
    """Settings of every unit of systemd, in order: some names come more than once."""

    def settings(path: Path) -> Iterator[tuple[str, str]]:
        for line in path.read_text().splitlines():
            if "=" in line and not line.startswith("#"):
                name, _, value = line.partition("=")
                yield name, value

    return {path.name: list(settings(path)) for path in sorted(DEPLOY.glob("*.service"))}


@pytest.fixture(scope="session")
def command_lines(
    compose: Document, base: list[Document], units: dict[str, list[tuple[str, str]]]
) -> dict[str, list[str]]:
    """Every command line of `anabranch` in `deploy/`, by where it is, without the program."""
    found = {
        f"compose {name}": service["command"]
        for name, service in compose["services"].items()
        if "anabranch" in service["image"]
    }
    for document in base:
        template = document.get("spec", {}).get("template", {}).get("spec", {})
        found |= {
            f"kubernetes {document['metadata']['name']}": each["args"]
            for each in template.get("containers", ())
        }
    for name, settings in units.items():
        program, *arguments = shlex.split(dict(settings)["ExecStart"])
        assert program == "/opt/anabranch/bin/anabranch"
        found[name] = arguments
    return found
