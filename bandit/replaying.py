"""Compute an experiment's decisions again, from nothing but its evidence: the same pure code gives the same numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from anabranch.bandit.decision import Change, Decision
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.fold import fold, test_key
from anabranch.bandit.judge import judge
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import Experiment
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.verdicts import Verdict

TOLERANCE = 1e-9
"""How far a recomputed logarithm of evidence may be from the kept one."""

_NUMBERS = (
    *("log_e_pass", "log_e_fail", "log_need_pass", "log_need_fail"),
    *("samples", "estimate", "low", "high", "baseline"),
)


class Replay:
    """An experiment's state computed again, as far as its verdicts depend on it."""

    def __init__(self, experiment: Experiment, first_delta: int, log: Iterable[Evidence]) -> None:
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
        if self._state.drift != saved.drift:
            problems.append("the saved watch over the arms does not follow from the kept evidence")
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
