"""YAML as people write it: of bounded size and depth, without aliases, so that reading costs no more than the text says."""

from __future__ import annotations

from typing import Any, Final

import yaml

MOST_BYTES: Final = 64 * 1024
"""An experiment with a hundred candidates takes a fifth of it; to read it all takes a second or two."""
MOST_DEPTH: Final = 32


class UnreadableYaml(ValueError):
    """The text is no YAML that is read here; the message says why."""


def load_yaml(text: str) -> Any:
    """The value of a text.

    Raises:
        UnreadableYaml: It is no YAML, too large, too deep, or uses an alias.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MOST_BYTES:
        raise UnreadableYaml(f"the text has {size} bytes, at most {MOST_BYTES} are read")
    try:
        _check_shape(text)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Not only YAMLError: a date such as 2024-02-30 or a very deep list fails in other ways.
        if isinstance(error, UnreadableYaml):
            raise
        raise UnreadableYaml(f"not valid YAML: {error}") from error


def _check_shape(text: str) -> None:
    """Refuse what would grow when it is built, before anything is."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise UnreadableYaml(
                f"line {_line(event)} uses the alias *{event.anchor}: aliases are not read, write the value out"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MOST_DEPTH:
                raise UnreadableYaml(f"line {_line(event)} is nested more than {MOST_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 0
