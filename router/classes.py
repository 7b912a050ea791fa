"""Classes of priority: who is served first, and how soon each should be answered.

A request is of a class by its metadata `x-priority` (the class's name), or by the protocol's parameter `priority`: 1 is
real-time, 2 interactive, 3 and beyond batch, the larger the later. One that says nothing is interactive: real-time work goes
before it, batch work after it, and when a queue is full the least urgent goes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

PRIORITY: Final = "x-priority"
"""Metadata by which a request names its class."""


class PriorityClass(StrEnum):
    """How urgent a request is."""

    REALTIME = "realtime"
    INTERACTIVE = "interactive"
    BATCH = "batch"


LEVELS: Final = {PriorityClass.REALTIME: 1, PriorityClass.INTERACTIVE: 2, PriorityClass.BATCH: 3}
"""By class, the level of the queues that a request by that name gets: 1 is the most urgent."""
LEVEL: Final = LEVELS[PriorityClass.INTERACTIVE]
"""Of a request that names neither."""
CLASSES: Final = tuple(PriorityClass)
LEVEL_OF: Final[Mapping[str, int]] = {str(name): level for name, level in LEVELS.items()}
TARGETS_MS: Final[Mapping[str, float]] = {
    PriorityClass.REALTIME: 50.0,
    PriorityClass.INTERACTIVE: 200.0,
    PriorityClass.BATCH: 5_000.0,
}
"""Within what 99 of 100 requests of a class should be answered, where `serve --class-target` says nothing else."""
TARGET_SHARE: Final = 0.99
"""The share of a class's requests that should be answered within its target: a p99."""


def class_of(level: int) -> PriorityClass:
    """The class of a level."""
    return CLASSES[min(level, len(CLASSES)) - 1]


def targets(given: Mapping[str, float]) -> dict[str, float]:
    """The targets of all classes, in milliseconds.

    Args:
        given: By class, what replaces the default.
    """
    return {**{str(name): value for name, value in TARGETS_MS.items()}, **given}


def target_problems(given: Mapping[str, float]) -> list[str]:
    """What is wrong with targets that were given."""
    known = ", ".join(CLASSES)
    return [
        f"class_targets_ms has {name!r}: there are {known}" for name in given if name not in TARGETS_MS
    ] + [
        f"class_targets_ms has {value:g} for {name}, must be positive and finite"
        for name, value in given.items()
        if not 0 < value < float("inf")
    ]
