"""Views as JSON and YAML: exactly their fields, in their order."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from anabranch.cli.format import Format


def plain(value: object) -> Any:
    """A view as mappings, lists and scalars; an infinite or undefined number becomes null, as JSON has none."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def encoded(value: object, output: Format) -> str:
    """A view, or a list of views, as text.

    Raises:
        ValueError: For a table: those are rendered, not encoded.
    """
    if output is Format.JSON:
        return json.dumps(plain(value), indent=2, ensure_ascii=False)
    if output is Format.YAML:
        import yaml

        return yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True).rstrip("\n")
    raise ValueError("a table is rendered, not encoded: choose json or yaml")


def json_line(value: object) -> str:
    """A view on one line, for streams."""
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
