"""The reference of the command line as Markdown, written from the commands themselves: `docs/cli.md`.

python -m anabranch.cli.reference > docs/cli.md
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from anabranch.cli.exit_codes import MEANINGS
from anabranch.cli.main import assemble

_KINDS = {"int": "NUMBER", "float": "NUMBER", "file": "FILE", "directory": "DIR", "path": "FILE"}
_HEAD = """# The command line

Written by `make reference` from the commands themselves; a test keeps it equal.

Results go to stdout, everything else to stderr. Colours and progress displays appear on a terminal only; `NO_COLOR` turns
colours off, `COLUMNS` sets the width of what is drawn. `-o json` and `-o yaml` print every field under a stable name; with
`--watch`, JSON comes as one line a change. `anabranch --install-completion` completes verbs, options and the names of
experiments, models and variants.
"""


def reference() -> str:
    """The whole page."""
    root = typer.main.get_command(assemble())
    context = root.make_context("anabranch", [], resilient_parsing=True)
    panels: dict[str, list[str]] = {}
    sections: list[str] = []
    for path, command in _commands(root, context, ()):
        panel = str(getattr(command, "rich_help_panel", None) or "")
        if len(path) == 1:
            panels.setdefault(panel, []).append(path[0])
        sections.append("\n".join(_section(path, command)))
    index = "\n".join(
        f"- {panel}: " + ", ".join(f"[`{verb}`](#anabranch-{verb})" for verb in verbs)
        for panel, verbs in panels.items()
    )
    return "\n".join([_HEAD, index, "", "## Exit status", "", *_statuses(), "", "\n\n".join(sections), ""])


def _statuses() -> Iterator[str]:
    yield "| status | meaning |"
    yield "|---:|---|"
    for code, meaning in MEANINGS.items():
        yield f"| {code.value} | {meaning} |"


def _commands(group: Any, context: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, by its path; a group comes before what is in it."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        here = (*path, name)
        yield here, command
        if hasattr(command, "list_commands"):
            yield from _commands(command, context, here)


def _section(path: tuple[str, ...], command: Any) -> Iterator[str]:
    yield f"## anabranch {' '.join(path)}"
    yield ""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        text = " ".join(paragraph.split())
        example = text.removeprefix("Example: ")
        yield text if example == text else f"```sh\n{example}\n```"
        yield ""
    parameters = [each for each in command.params if each.name not in ("help", "install_completion")]
    if parameters:
        yield "| argument or option | meaning | default |"
        yield "|---|---|---|"
        for parameter in parameters:
            yield f"| {_names(parameter)} | {_meaning(parameter)} | {_default(parameter)} |"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).upper().strip('[]{}')}`"
    shown = ", ".join(f"`{name}`" for name in sorted(parameter.opts, key=len, reverse=True))
    return shown if parameter.is_flag else f"{shown} {parameter.metavar or _kind(parameter)}"


def _kind(parameter: Any) -> str:
    """What an option takes."""
    choices = getattr(parameter.type, "choices", None)
    if choices:
        return "\\|".join(map(str, choices))
    # A range is named `integer range`.
    return _KINDS.get(parameter.type.name.split()[0], "TEXT")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or value == "" or callable(value):
        return ""
    return "on" if value is True else f"`{getattr(value, 'value', value)}`"


def _meaning(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split()).replace("|", "\\|")
    return f"{text} Also `{parameter.envvar}`." if parameter.envvar else text


if __name__ == "__main__":
    print(reference(), end="")
