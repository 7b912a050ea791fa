"""Recompute an experiment's decisions from the evidence that was kept, and check that the log was not changed.

What every tick folded in is kept. Folding it again, in order, through the same pure code must give every verdict's
evidence again; and the decisions must form an unbroken chain of hashes. Whoever changes a count, a decision or
leaves out a row is found, and the decision at which it shows is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from anabranch.bandit.decision import Change, Decision
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.fold import fold, test_key
from anabranch.bandit.judge import judge
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import Experiment
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.verdicts import Verdict
from anabranch.store.chain import GENESIS, link
from anabranch.store.codec import decision_text
from anabranch.store.document import parse
from anabranch.store.port import Store, StoredDecision, StoredExperiment

TOLERANCE = 1e-9
"""How far a recomputed logarithm of evidence may be from the kept one."""

_NUMBERS = (
    *("log_e_pass", "log_e_fail", "log_need_pass", "log_need_fail"),
    *("samples", "estimate", "low", "high", "baseline"),
)


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
    replay = _Replay(parse(kept.document), kept.first_delta, log)
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


class _Replay:
    """An experiment's state computed again, as far as its verdicts depend on it."""

    def __init__(self, experiment: Experiment, first_delta: int, log: list[Evidence]) -> None:
        self._experiment = experiment
        self._state = ExperimentState(cursor=first_delta)
        self._log: Iterator[Evidence] = iter(log)
        self._next = next(self._log, None)
        self._phase = Phase.PENDING
        self.compared = 0

    def check(self, decision: Decision) -> list[str]:
        """Fold what the decision rests on, judge, and say what differs from what was decided."""
        self._fold_up_to(decision.evidence_last)
        problems = []
        if self._state.cursor != decision.evidence_last:
            problems.append(
                f"it rests on evidence up to delta {decision.evidence_last}, "
                f"what is kept ends at {self._state.cursor}: a row is missing"
            )
        if not self._phase.is_over:
            self._state = judge(self._experiment, self._state, decision.at_s)
        if any(action.change is Change.RESTARTED for action in decision.actions):
            self._state, self._phase = ExperimentState(cursor=self._state.cursor), Phase.PENDING
        problems += self._differences(decision)
        live = self._state.live
        if self._phase is Phase.PENDING and decision.phase is not Phase.ABORTED:
            live = self._experiment.candidates
        removed = {action.variant for action in decision.actions if action.change is Change.REMOVED}
        self._state = replace(self._state, live=tuple(name for name in live if name not in removed))
        self._phase = decision.phase
        return problems

    def finish(self, saved: ExperimentState) -> list[str]:
        """Fold what came after the last decision, and say how the saved state differs."""
        self._fold_up_to(None)
        problems = []
        if self._state.cursor != saved.cursor:
            problems.append(
                f"the saved state rests on evidence up to delta {saved.cursor}, "
                f"what is kept ends at {self._state.cursor}: a row is missing"
            )
        if self._state.totals != saved.totals:
            problems.append("the saved totals are not the sum of the kept evidence")
        if self._state.reference != saved.reference:
            problems.append("the saved reference does not follow from the kept evidence")
        if self._state.sample_ratio != saved.sample_ratio:
            problems.append("the saved sample ratio does not follow from the kept evidence")
        return problems

    def _fold_up_to(self, last: int | None) -> None:
        while self._next is not None and (last is None or self._next.last <= last):
            self._state = fold(self._experiment, self._state, self._next)
            self._next = next(self._log, None)

    def _differences(self, decision: Decision) -> list[str]:
        mine = dict(self._state.verdicts)
        problems = []
        for verdict in decision.verdicts:
            key = test_key(verdict.metric, verdict.variant)
            computed = mine.pop(key, None)
            self.compared += 1
            if computed is None:
                problems.append(f"{key}: a verdict is kept, none follows from the evidence")
            else:
                problems += _difference(key, verdict, computed)
        problems += [f"{key}: a verdict follows from the evidence, none is kept" for key in sorted(mine)]
        return problems


def _difference(key: str, kept: Verdict, computed: Verdict) -> list[str]:
    problems = [
        f"{key}: {number} is {before}, the evidence gives {after}"
        for number in _NUMBERS
        if not _is_same(before := getattr(kept, number), after := getattr(computed, number))
    ]
    if kept.outcome is not computed.outcome:
        problems.append(f"{key}: the verdict is {kept.outcome}, the evidence gives {computed.outcome}")
    return problems


def _is_same(kept: float | None, computed: float | None) -> bool:
    if kept is None or computed is None:
        return kept is computed
    return math.isclose(kept, computed, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
