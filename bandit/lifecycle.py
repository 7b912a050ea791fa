"""The life of an experiment: every phase, every event, and the one table of what follows what.

    Pending ── start ──▶ Progressing ── win ──▶ Promoting ── commit ──▶ Promoted
                          │  ▲   │                  │                      │
                   pause  ▼  │   │ undecided        │ lose, undo           │ undo
                        Paused   ▼       lose       ▼                      ▼
                             Inconclusive ────▶ RolledBack ◀───────────────┘

An approved gate and a revised document change no phase, and are possible only where an experiment goes on.
A pair that the table lacks is illegal: it raises and changes nothing.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where an experiment stands."""

    PENDING = "Pending"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    INCONCLUSIVE = "Inconclusive"
    PROMOTING = "Promoting"
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    ABORTED = "Aborted"

    @property
    def is_over(self) -> bool:
        """Whether nothing happens any more without a person."""
        return self in (Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ABORTED)

    @property
    def is_moving(self) -> bool:
        """Whether ticks advance the steps."""
        return self in (Phase.PROGRESSING, Phase.PROMOTING)


class Event(StrEnum):
    """What can happen to an experiment."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    UNDECIDED = "undecided"
    WIN = "win"
    COMMIT = "commit"
    LOSE = "lose"
    ABORT = "abort"
    UNDO = "undo"
    RETRY = "retry"
    APPROVE = "approve"
    REVISE = "revise"


class IllegalTransition(Exception):
    """That cannot happen in this phase."""


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.PENDING, Event.START): Phase.PROGRESSING,
    (Phase.PENDING, Event.APPROVE): Phase.PENDING,
    (Phase.PENDING, Event.REVISE): Phase.PENDING,
    (Phase.PENDING, Event.LOSE): Phase.ROLLED_BACK,
    (Phase.PENDING, Event.ABORT): Phase.ABORTED,
    (Phase.PROGRESSING, Event.APPROVE): Phase.PROGRESSING,
    (Phase.PROGRESSING, Event.REVISE): Phase.PROGRESSING,
    (Phase.PROGRESSING, Event.PAUSE): Phase.PAUSED,
    (Phase.PROGRESSING, Event.UNDECIDED): Phase.INCONCLUSIVE,
    (Phase.PROGRESSING, Event.WIN): Phase.PROMOTING,
    (Phase.PROGRESSING, Event.LOSE): Phase.ROLLED_BACK,
    (Phase.PROGRESSING, Event.ABORT): Phase.ABORTED,
    (Phase.PAUSED, Event.RESUME): Phase.PROGRESSING,
    (Phase.PAUSED, Event.APPROVE): Phase.PAUSED,
    (Phase.PAUSED, Event.REVISE): Phase.PAUSED,
    (Phase.PAUSED, Event.WIN): Phase.PROMOTING,
    (Phase.PAUSED, Event.LOSE): Phase.ROLLED_BACK,
    (Phase.PAUSED, Event.ABORT): Phase.ABORTED,
    (Phase.INCONCLUSIVE, Event.RETRY): Phase.PENDING,
    (Phase.INCONCLUSIVE, Event.WIN): Phase.PROMOTING,
    (Phase.INCONCLUSIVE, Event.LOSE): Phase.ROLLED_BACK,
    (Phase.INCONCLUSIVE, Event.ABORT): Phase.ABORTED,
    (Phase.PROMOTING, Event.APPROVE): Phase.PROMOTING,
    (Phase.PROMOTING, Event.REVISE): Phase.PROMOTING,
    (Phase.PROMOTING, Event.COMMIT): Phase.PROMOTED,
    (Phase.PROMOTING, Event.LOSE): Phase.ROLLED_BACK,
    (Phase.PROMOTING, Event.UNDO): Phase.ROLLED_BACK,
    (Phase.PROMOTING, Event.ABORT): Phase.ABORTED,
    (Phase.PROMOTED, Event.UNDO): Phase.ROLLED_BACK,
    (Phase.ROLLED_BACK, Event.RETRY): Phase.PENDING,
    (Phase.ABORTED, Event.RETRY): Phase.PENDING,
}


def follow(phase: Phase, event: Event) -> Phase:
    """The phase after an event.

    Raises:
        IllegalTransition: If the event cannot happen in this phase; names the ones that can.
    """
    after = TRANSITIONS.get((phase, event))
    if after is None:
        allowed = ", ".join(sorted(known for place, known in TRANSITIONS if place is phase)) or "nothing"
        raise IllegalTransition(f"cannot {event} an experiment that is {phase}: possible is {allowed}")
    return after


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> Pending"]
    lines += [f"    {before} --> {after}: {event}" for (before, event), after in TRANSITIONS.items()]
    lines += [f"    {phase} --> [*]" for phase in Phase if phase.is_over]
    return "\n".join(lines)
