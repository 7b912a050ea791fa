"""What goes wrong in a drill, and what its processes said meanwhile."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    """What goes wrong."""

    WRITER = "writer killed"
    CONTROLLER = "controller killed"
    EVERYTHING = "everything killed"
    TORN = "writer killed in the middle of a write"
    LOCKED = "database locked"
    FULL_DISK = "disk full"
    FULL_AND_KILLED = "disk full, then the writer killed"
    CLOCK_BACK = "clock steps back"
    RIVAL = "two controllers race"
    LEADER = "leading controller killed"
    PAUSED = "leading controller stopped for longer than its lease"
    AWAY = "database killed"


OFTEN: Final = (Fault.WRITER, Fault.CONTROLLER)
OF_SHARED: Final = (Fault.LEADER, Fault.PAUSED, Fault.AWAY)
"""What can only happen where several servers share a database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Weights that a controller gave out.

    Attributes:
        at_s: On the clock that all processes share.
    """

    at_s: float
    epoch: int
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A controller process and what it gave out, in order.

    Attributes:
        decisions: Numbers of the decisions that it saved, with the token of its lease; 0 where there is none.
    """

    begun_s: float
    publications: list[Publication] = field(default_factory=list)
    decisions: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Seen:
    """What a drill's processes said, and what was done to them.

    Attributes:
        faults: How often each was done.
        phases: How many of them came in which phase of the experiment.
        answered: Sequence numbers of answered requests, by lane.
        lives: Of controllers, in the order in which they began.
        failed_ticks: Ticks that failed and were tried again.
        is_stuck: Whether the experiment did not end when everything was well again.
    """

    faults: Counter[Fault] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    answered: dict[int, list[int]] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)
    failed_ticks: Counter[str] = field(default_factory=Counter)
    phase: str = "Pending"
    is_stuck: bool = False
