"""Recompute an experiment's decisions from the evidence that was kept, and check that the log was not changed.

What every tick folded in is kept. Folding it again, in order, through the same pure code must give every verdict's
evidence again; and the decisions must form an unbroken chain of hashes. Whoever changes a count, a decision or
leaves out a row is found, and the decision at which it shows is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from anabranch.bandit.evidence import Evidence
from anabranch.bandit.replaying import Replay
from anabranch.store.chain import GENESIS, link
from anabranch.store.codec import decision_text
from anabranch.store.document import parse
from anabranch.store.port import Store, StoredDecision, StoredExperiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One decision after the check.

    Attributes:
        is_recomputed: Whether its verdicts were computed again; of an earlier spec version only the chain is
            checked.
        problems: What does not match, each in a sentence; empty when everything does.
    """

    spec_version: int
    number: int
    is_recomputed: bool
    problems: tuple[str, ...] = ()

    @property
    def matches(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the check of a whole experiment found.

    Attributes:
        head: Hash of the last decision, empty without one.
        verdicts: How many verdicts were computed again and compared.
        problems: What belongs to no single decision, such as evidence that is missing at the end.
    """

    experiment: str
    decisions: tuple[Checked, ...]
    head: str = ""
    verdicts: int = 0
    problems: tuple[str, ...] = ()

    @property
    def matches(self) -> bool:
        """Whether every decision follows from the evidence and the chain is unbroken."""
        return not self.problems and all(checked.matches for checked in self.decisions)

    @property
    def first_mismatch(self) -> Checked | None:
        """The earliest decision that does not match."""
        return next((checked for checked in self.decisions if not checked.matches), None)


def verify(store: Store, name: str) -> Verification:
    """Check every decision of an experiment against the evidence that was kept.

    Raises:
        NotFound: If there is no such experiment.
    """
    kept, decisions, log = _between_ticks(store, name)
    replay = Replay(parse(kept.document), kept.first_delta, log)
    checked: list[Checked] = []
    previous = GENESIS
    for row in decisions:
        problems = _chain_problems(row, previous)
        previous = row.hash
        is_current = row.spec_version == kept.spec_version
        if is_current:
            expected = 1 + sum(other.spec_version == row.spec_version for other in checked)
            if row.decision.number != expected:
                problems.append(
                    f"it is number {row.decision.number}, decision {expected} is missing before it"
                )
            problems += replay.check(row.decision)
        checked.append(
            Checked(
                spec_version=row.spec_version,
                number=row.decision.number,
                is_recomputed=is_current,
                problems=tuple(problems),
            )
        )
    own = sum(row.spec_version == kept.spec_version for row in decisions)
    ends = []
    if own != kept.state.decisions:
        ends.append(f"the state counts {kept.state.decisions} decisions, {own} are kept")
    ends += replay.finish(kept.state)
    return Verification(
        experiment=name,
        decisions=tuple(checked),
        head=decisions[-1].hash if decisions else "",
        verdicts=replay.compared,
        problems=tuple(ends),
    )


def _between_ticks(store: Store, name: str) -> tuple[StoredExperiment, list[StoredDecision], list[Evidence]]:
    """An experiment, its decisions and its evidence as they are at one moment.

    They are read one after the other: when a tick was saved meanwhile, they are read again.
    """
    kept = store.experiment(name)
    while True:
        decisions, log = store.decisions(name), store.evidence_log(name)
        again = store.experiment(name)
        if again.state_version == kept.state_version:
            return kept, decisions, log
        kept = again


def _chain_problems(row: StoredDecision, previous: str) -> list[str]:
    problems = []
    if row.previous_hash != previous:
        problems.append(
            "its previous hash is not the hash of the decision before it: one was changed or removed"
        )
    if row.hash != link(row.previous_hash, decision_text(row.decision)):
        problems.append("its hash is not the hash of its body: the body was changed")
    return problems
