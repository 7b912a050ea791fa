"""A decision's certificate: the design, the counts and the result, in one value that can be computed again anywhere.

It holds what was asked for, every count that was folded in up to the decision, in the ticks' order, and the decisions
so far. Whoever has it can compute each e-value and each verdict again, without the store, the journal or trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anabranch.bandit.decision import Command, Decision
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.replaying import Replay
from anabranch.bandit.spec import Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Everything that a decision follows from.

    Attributes:
        experiment: The design: metrics, margins, errors and steps.
        first_delta: Evidence up to this delta belongs to an earlier spec version.
        evidence: What each tick folded in, oldest first, up to the decision.
        decisions: All decisions up to the certified one, which is the last.
        commands: What people and gates asked up to then.
        first_epoch: Where the epochs of this spec version begin.
    """

    experiment: Experiment
    first_delta: int
    evidence: tuple[Evidence, ...]
    decisions: tuple[Decision, ...]
    commands: tuple[Command, ...] = ()
    first_epoch: int = 0

    @property
    def decision(self) -> Decision:
        """The certified decision."""
        return self.decisions[-1]


def certify(
    experiment: Experiment,
    decisions: Sequence[Decision],
    log: Iterable[Evidence],
    *,
    number: int,
    commands: Iterable[Command] = (),
    first_delta: int = 0,
    first_epoch: int = 0,
) -> Certificate:
    """The certificate of one decision.

    Args:
        experiment: What was asked for.
        decisions: Of this spec version, oldest first.
        log: What the ticks folded in, oldest first.
        number: Of the decision.
        commands: What people and gates asked.
        first_delta: As in `Certificate`.
        first_epoch: As in `Certificate`.

    Raises:
        ValueError: When there is no such decision.
    """
    upto = tuple(decision for decision in decisions if decision.number <= number)
    if not upto or upto[-1].number != number:
        known = f"1 to {decisions[-1].number}" if decisions else "none"
        raise ValueError(f"decision {number} of {experiment.name} is not kept: there are {known}")
    handled = {number for decision in upto for number in decision.handled}
    return Certificate(
        experiment=experiment,
        first_delta=first_delta,
        first_epoch=first_epoch,
        commands=tuple(command for command in commands if command.id in handled),
        evidence=tuple(part for part in log if part.last <= upto[-1].evidence_last),
        decisions=upto,
    )


def recompute(certificate: Certificate) -> list[str]:
    """Take every decision again: verdicts, weights, and what followed from them.

    Returns:
        What does not match to 1e-9, each in a sentence; empty when the decision follows from the counts.
    """
    numbers = [decision.number for decision in certificate.decisions]
    if numbers != list(range(1, len(numbers) + 1)):
        return [f"decisions {numbers} are not an unbroken row from 1: one is missing"]
    replay = Replay(
        certificate.experiment,
        certificate.evidence,
        certificate.commands,
        first_delta=certificate.first_delta,
        first_epoch=certificate.first_epoch,
    )
    return [
        f"decision {decision.number}: {problem}"
        for decision in certificate.decisions
        for problem in replay.check(decision)
    ]
