from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from anabranch.cli.main import GROUPS, assemble
from anabranch.cli.reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
NO_RESULT = {
    "serve": "serves until it is stopped",
    "controller": "runs until it is stopped",
    "db": "a group: its verbs have results",
    "demo": "draws what happens",
    "token": "a group: its verbs have results",
    "token create": "prints a secret once, and nothing beside it",
    "token rotate": "prints a secret once, and nothing beside it",
    "token revoke": "does it, or fails",
    "login": "does it, or fails",
    "logout": "does it, or fails",
    "init": "writes a document, which is YAML",
    "top": "draws on the whole screen",
    "report": "is a document in formats of its own",
    "certificate": "is a document in a format of its own",
    "bench": "a group: its verbs have results",
    "feedback": "a group: its verbs have results",
}
"""Verbs without `--output`, and why."""


def commands() -> Iterator[tuple[str, Any]]:
    """Every verb by its name, those inside groups too."""

    def below(group: Any, path: str) -> Iterator[tuple[str, Any]]:
        for name in group.list_commands(None):
            command = group.get_command(None, name)
            yield f"{path}{name}", command
            if hasattr(command, "list_commands"):
                yield from below(command, f"{path}{name} ")

    return below(typer.main.get_command(assemble()), "")


def test_the_page_says_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "write the page again: make reference"


def test_every_listed_verb_is_registered_by_its_module() -> None:
    found = {name for name, _ in commands() if " " not in name}
    assert found == {verb for verbs in GROUPS.values() for verb in verbs}


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: str(value))
def test_every_verb_says_what_it_does_with_an_example_and_prints_data(name: str, command: Any) -> None:
    assert command.help.strip()
    if not hasattr(command, "list_commands"):
        assert f"Example: anabranch {name.split(' list')[0]}" in command.help
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--output" in options) != (name in NO_RESULT), NO_RESULT.get(name, "a result has -o")
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name} has no help"
