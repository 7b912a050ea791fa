"""A decision as a value: what changes, why, and the evidence it rests on. Only the controller acts on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import Experiment
from anabranch.bandit.verdicts import Verdict


class Verb(StrEnum):
    """What a person can ask of a running experiment."""

    PROMOTE = "promote"
    PROMOTE_FULL = "promote-full"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    RETRY = "retry"
    UNDO = "undo"
    APPROVE = "approve"
    ANSWER = "answer"  # by a gate's webhook, never by a person
    REVISE = "revise"  # by `apply`: a changed document while the experiment goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A person's request, waiting for the next tick.

    Attributes:
        argument: For `promote`, the variant; empty means the best one. For `approve`, the gate; empty means the one
            that waits. For `answer`, what a gate said. For `revise`, the document.
        revision: What a revised document asks for.
    """

    id: int
    verb: Verb
    actor: str
    argument: str = ""
    revision: Experiment | None = None


class Change(StrEnum):
    """The kinds of things a decision does."""

    PHASE = "phase"
    RESTARTED = "restarted"  # by `retry`: tests, verdicts and totals begin anew
    STEP = "step"
    WEIGHTS = "weights"
    MIRROR = "mirror"
    REMOVED = "removed"
    VERDICT = "verdict"
    WINNER = "winner"
    REFUSED = "refused"
    GATE = "gate"
    PROPOSED = "proposed"  # weights that would be set if decisions were not recorded only
    REVISED = "revised"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing a decision does, and why, in a sentence with the numbers."""

    change: Change
    variant: str = ""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one tick decided.

    Attributes:
        number: Counts the decisions of the experiment from 1.
        at_s: When, in seconds since 1970.
        evidence_last: Last delta of the evidence that was folded in; every earlier one is included.
        weights: Share of every arm from now on.
        verdicts: Every verdict at this moment, with its e-values.
        handled: Ids of the commands this decision answers.
    """

    number: int
    at_s: float
    phase: Phase
    step: int
    epoch: int
    weights: Mapping[str, float]
    actions: tuple[Action, ...]
    verdicts: tuple[Verdict, ...]
    evidence_last: int
    handled: tuple[int, ...] = ()

    @property
    def summary(self) -> str:
        """The reasons, in one line."""
        return "; ".join(action.reason for action in self.actions)
