"""Values of the decision core from their JSON form by the standard library alone.

`store.codec` reads them by pydantic, which checks everything, and takes longer to load than a look at a store should.
Here a value that was written by `store.codec` is only built again: equal to what `store.codec` reads, as a test proves.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from anabranch.bandit.decision import Decision

_Build = Callable[[Any], Any]


def decision_from(text: str) -> Decision:
    """The decision in a JSON text.

    Raises:
        ValueError, KeyError, TypeError: If it is none.
    """
    built: Decision = _builder(Decision)(json.loads(text))
    return built


@cache
def _builder(kind: Any) -> _Build:
    """What builds a value of a type from what JSON made of it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType) and type(None) in arguments:
        (inner,) = (_builder(each) for each in arguments if each is not type(None))
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        item = _builder(arguments[0])
        return lambda value: tuple(map(item, value))
    if origin is Mapping:
        key, item = _builder(arguments[0]), _builder(arguments[1])
        return lambda value: {key(name): item(each) for name, each in value.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_builder(kind)
    if isinstance(kind, type) and issubclass(kind, Enum | int | float | str):
        return kind
    raise TypeError(f"no plain form of {kind}: read it by store.codec")


def _dataclass_builder(kind: type[Any]) -> _Build:
    hints = get_type_hints(kind)
    builders = {field.name: _builder(hints[field.name]) for field in fields(kind)}
    return lambda value: kind(**{name: builders[name](given) for name, given in value.items()})
