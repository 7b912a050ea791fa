"""Whether a decision log is whole: its hashes chain, its numbers are complete, and its end is the state's."""

from __future__ import annotations

from collections.abc import Sequence

from anabranch.cli.numbers import moment
from anabranch.store.chain import first_broken
from anabranch.store.codec import decision_text
from anabranch.store.port import StoredDecision, StoredExperiment


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
