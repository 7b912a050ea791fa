"""Whether a decision log is whole: its hashes chain, its numbers are complete, and its end is the state's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anabranch.bandit.evidence import Evidence
from anabranch.cli.connection import find_experiment
from anabranch.cli.numbers import moment
from anabranch.store.chain import first_broken
from anabranch.store.codec import decision_text
from anabranch.store.port import Store, StoredDecision, StoredExperiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the store holds of an experiment at one moment."""

    stored: StoredExperiment
    decisions: Sequence[StoredDecision]
    evidence: Sequence[Evidence]


def load_kept(store: Store, name: str) -> Kept:
    """Read an experiment, its decisions and its evidence as they are between two ticks.

    The three are read one after the other: when a tick was saved meanwhile, they are read again.
    """
    stored = find_experiment(store, name)
    while True:
        kept = Kept(stored=stored, decisions=store.decisions(name), evidence=store.evidence_log(name))
        stored = store.experiment(name)
        if stored.state_version == kept.stored.state_version:
            return kept


def broken_log(stored: StoredExperiment, decisions: Sequence[StoredDecision]) -> str | None:
    """What is wrong with the log, in a sentence; None when it is whole.

    Args:
        stored: The experiment as kept.
        decisions: Every decision of every spec version, oldest first.
    """
    index = first_broken((kept.previous_hash, decision_text(kept.decision), kept.hash) for kept in decisions)
    if index is not None:
        kept = decisions[index]
        return (
            f"decision {kept.decision.number} of spec version {kept.spec_version}, "
            f"taken {moment(kept.decision.at_s)}, does not follow from the one before it"
        )
    due: dict[int, int] = {}
    for kept in decisions:
        expected = due.get(kept.spec_version, 0) + 1
        if kept.decision.number != expected:
            return f"spec version {kept.spec_version} goes from decision {expected - 1} to {kept.decision.number}"
        due[kept.spec_version] = expected
    kept_now = due.get(stored.spec_version, 0)
    if kept_now != stored.state.decisions:
        return (
            f"the experiment's state counts {stored.state.decisions} decisions of spec version "
            f"{stored.spec_version}, the log has {kept_now}"
        )
    return None
