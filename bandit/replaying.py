"""Compute an experiment's decisions again, from its evidence and requests alone: the same pure code decides the same.

Every tick is taken again at its own time: verdicts, rival tests, weights, phases and removals must all come out as they
were kept. Ticks that decided nothing only fold their evidence, since a verdict that turned would have been a decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from anabranch.bandit.contenders import follow_rivals
from anabranch.bandit.decision import Command, Decision, Verb
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.fold import fold, test_key
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.recent import remember
from anabranch.bandit.spec import BanditStep, Experiment
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.step import steady, tick
from anabranch.bandit.verdicts import Verdict

TOLERANCE = 1e-9
"""How far a recomputed logarithm of evidence, or a weight, may be from the kept one."""

_NUMBERS = (
    *("log_e_pass", "log_e_fail", "log_need_pass", "log_need_fail"),
    *("samples", "estimate", "low", "high", "baseline"),
)
_ADMISSION = Command(id=0, verb=Verb.ABORT, actor="admission")
"""Of releases in which a refusal before the start was no request."""


class Replay:
    """An experiment taken again from its beginning.

    Args:
        experiment: As it was applied.
        log: What the ticks folded in, oldest first.
        commands: What people and gates asked, in any order.
        first_delta: Evidence up to this delta belongs to an earlier spec version.
        first_epoch: As in the store: epochs count on over spec versions.

    Attributes:
        compared: How many verdicts were computed again.
    """

    def __init__(
        self,
        experiment: Experiment,
        log: Iterable[Evidence],
        commands: Iterable[Command],
        *,
        first_delta: int = 0,
        first_epoch: int = 0,
    ) -> None:
        self._experiment = experiment
        self._state = ExperimentState(epoch=first_epoch, cursor=first_delta)
        self._commands = {command.id: command for command in (_ADMISSION, *commands)}
        self._log: Iterator[Evidence] = iter(log)
        self._next = next(self._log, None)
        self._surplus: list[str] = []
        self.compared = 0

    def check(self, decision: Decision) -> list[str]:
        """Take the tick of a decision again, and say what differs from what was decided."""
        evidence = self._fold_up_to(decision)
        problems, self._surplus = self._surplus, []
        missing = [number for number in decision.handled if number not in self._commands]
        problems += [f"request {number}, which it answers, is not in the audit log" for number in missing]
        commands = [self._commands[number] for number in decision.handled if number not in missing]
        result = tick(self._experiment, self._state, evidence, commands, decision.at_s)
        self._state = result.state
        self._experiment = result.revised or self._experiment
        if self._state.cursor != decision.evidence_last:
            problems.append(
                f"it rests on evidence up to delta {decision.evidence_last}, "
                f"what is kept ends at {self._state.cursor}: a row is missing"
            )
        if result.decision is None:
            return [*problems, "nothing is decided from what is kept"]
        return [*problems, *_outcome_differences(decision, result.decision), *self._differences(decision)]

    def finish(self, saved: ExperimentState) -> list[str]:
        """Fold what came after the last decision, and say how the saved state differs."""
        self._fold_up_to(None)
        mine, problems = self._state, self._surplus
        if mine.cursor != saved.cursor:
            problems.append(
                f"the saved state rests on evidence up to delta {saved.cursor}, "
                f"what is kept ends at {mine.cursor}: a row is missing"
            )
        differing = {
            "totals are not the sum of": mine.totals != saved.totals,
            "reference does not follow from": mine.reference != saved.reference,
            "sample ratio does not follow from": mine.sample_ratio != saved.sample_ratio,
            "watch over the arms does not follow from": mine.drift != saved.drift,
            "tests of leaders against rivals do not follow from": mine.rivals != saved.rivals,
            "weights do not follow from": not _are_same(mine.weights, saved.weights),
            "phase does not follow from": mine.phase is not saved.phase,
        }
        return [
            *problems,
            *(f"the saved {what} the kept evidence" for what, differs in differing.items() if differs),
        ]

    def _fold_up_to(self, decision: Decision | None) -> Evidence:
        """Take the ticks before a decision's; answers what its own tick folds in."""
        while (row := self._next) is not None and (decision is None or row.last <= decision.evidence_last):
            self._next = next(self._log, None)
            if (
                decision is not None
                and row.last == decision.evidence_last
                and steady(self._state, row.at_s) == decision.at_s
            ):
                return row
            self._take_quietly(row)
        return Evidence(experiment=self._experiment.name)

    def _take_quietly(self, evidence: Evidence) -> None:
        """A tick that decided nothing; only where weights were due, they are drawn again."""
        before, now = self._state, steady(self._state, evidence.at_s)
        if _is_allocation_due(self._experiment, before, now):
            result = tick(self._experiment, before, evidence, (), now)
            self._state = result.state
            if result.decision is not None:
                self._surplus.append(f"before it, nothing was kept of: {result.decision.summary}")
            return
        state = fold(self._experiment, before, evidence)
        state = follow_rivals(self._experiment, before, state, evidence)
        self._state = remember(self._experiment, state, evidence, now)

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


def _is_allocation_due(experiment: Experiment, state: ExperimentState, now: float) -> bool:
    if state.phase is not Phase.PROGRESSING or state.step >= len(experiment.steps):
        return False
    step = experiment.steps[state.step]
    return isinstance(step, BanditStep) and now - state.allocated_s >= step.update_period_s


def _outcome_differences(kept: Decision, computed: Decision) -> list[str]:
    problems = [
        f"its {name} is {before}, the evidence gives {after}"
        for name in ("phase", "step", "epoch")
        if (before := getattr(kept, name)) != (after := getattr(computed, name))
    ]
    if not _are_same(kept.weights, computed.weights):
        problems.append(
            f"its weights are {_shares(kept.weights)}, the evidence gives {_shares(computed.weights)}"
        )
    did, follows = (
        [f"{action.change} {action.variant}".strip() for action in decision.actions]
        for decision in (kept, computed)
    )
    if did != follows:
        problems.append(f"it did: {', '.join(did)}; the evidence gives: {', '.join(follows)}")
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


def _are_same(kept: Mapping[str, float], computed: Mapping[str, float]) -> bool:
    return kept.keys() == computed.keys() and all(_is_same(kept[arm], computed[arm]) for arm in kept)


def _shares(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{arm} {share:.4%}" for arm, share in weights.items() if share > 0) or "none"
