"""What an experiment waits for before it goes on, in sentences a person can act on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import assert_never

from anabranch.bandit.choose import open_claims
from anabranch.bandit.fold import test_key
from anabranch.bandit.gating import waiting_gates
from anabranch.bandit.hooks import Gate
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.remaining import Remaining
from anabranch.bandit.spec import (
    AnalysisStep,
    BanditStep,
    Experiment,
    GateStep,
    MirrorStep,
    PauseStep,
    PromoteStep,
    SetWeightStep,
    Step,
)
from anabranch.bandit.state import ExperimentState, GateVisit
from anabranch.bandit.verdicts import Outcome
from anabranch.cli.numbers import count, duration, share


def waiting_for(
    experiment: Experiment,
    state: ExperimentState,
    now: float,
    expected: Mapping[str, Remaining] = MappingProxyType({}),
) -> tuple[str, ...]:
    """What must happen next, most important first; empty when the experiment is over."""
    name = experiment.name
    step = experiment.steps[state.step] if state.step < len(experiment.steps) else None
    if gates := waiting_gates(experiment, state):
        return tuple(_gate(name, gate, state.gates[gate.name]) for gate in gates)
    units = _missing_units(experiment, state)
    match state.phase:
        case Phase.PENDING:
            return ("the controller's next tick: it runs inside `anabranch serve`",)
        case Phase.PAUSED:
            return (f"a person: `anabranch resume {name}`, `promote{_which(state)}` or `abort`",)
        case Phase.INCONCLUSIVE:
            return (*units, f"a person: `anabranch promote {name}{_which(state)}`, `retry` or `abort`")
        case Phase.PROMOTED | Phase.ROLLED_BACK | Phase.ABORTED:
            return ()
        case Phase.PROGRESSING | Phase.PROMOTING:
            if step is None:
                return units
            return (*units, *_step(experiment, state, step, now - state.step_started_s, expected))
        case _:
            assert_never(state.phase)


def _missing_units(experiment: Experiment, state: ExperimentState) -> tuple[str, ...]:
    """Why nothing is learnt where requests come and none says whose it is."""
    requests = sum(totals.requests for totals in state.totals.values())
    if experiment.unit_metadata is None or not requests or any(each.units for each in state.totals.values()):
        return ()
    return (
        f"metadata {experiment.unit_metadata}: none of {count(requests)} requests had it, "
        f"so {experiment.baseline} served them outside the split; clients must send it",
    )


def _gate(name: str, gate: Gate, visit: GateVisit) -> str:
    opened = f"`anabranch approve {name} {gate.name}`"
    if gate.webhook is None:
        return f"a person to open gate {gate.name} before {visit.occasion}: {opened}"
    said = f"; its last answer: {visit.detail}" if visit.detail else ""
    return f"gate {gate.name} ({gate.kind}) before {visit.occasion}{said}; {opened} opens it by hand"


def _which(state: ExperimentState) -> str:
    """The option that a promotion needs: with one live candidate there is nothing to choose."""
    return " --variant …" if len(state.live) > 1 else ""


def _step(
    experiment: Experiment,
    state: ExperimentState,
    step: Step,
    elapsed_s: float,
    expected: Mapping[str, Remaining],
) -> tuple[str, ...]:
    match step:
        case MirrorStep():
            found = [
                _claim(state, metric, candidate, expected)
                for candidate in state.live
                for metric in step.until_decided
                if not _passes(state, metric, candidate)
            ]
            return (*found, f"or {_left(step.max_duration_s - elapsed_s)} to pass")
        case SetWeightStep():
            return ("the next tick",)
        case PauseStep():
            if step.duration_s is None:
                return (f"a person: `anabranch resume {experiment.name}`",)
            return (f"{_left(step.duration_s - elapsed_s)} to pass",)
        case GateStep():
            return (f"gate {step.gate.name}",)
        case AnalysisStep():
            found = [
                _claim(state, metric.name, candidate, expected)
                for candidate in state.live
                for metric in experiment.guardrails
                if not _passes(state, metric.name, candidate)
            ]
            return _timed(found, step.min_duration_s, step.max_duration_s, elapsed_s)
        case BanditStep():
            found = [
                _claim(state, metric, candidate, expected)
                for candidate in state.live
                for metric in open_claims(experiment, state, candidate)
            ]
            if not found:
                found = ["the proof that no other candidate is better"]
            return _timed(found, step.min_duration_s, step.max_duration_s, elapsed_s)
        case PromoteStep():
            last = len(step.weights) - 1
            if state.part < last:
                after = share(step.weights[state.part + 1])
                return (
                    f"{_left(step.interval_s - elapsed_s)} at {share(step.weights[state.part])}, then {after}",
                )
            return (f"{_left(step.bake_s - elapsed_s)} of bake, while the guardrails are watched",)
        case _:
            assert_never(step)


def _timed(found: list[str], least_s: float, most_s: float | None, elapsed_s: float) -> tuple[str, ...]:
    sentences = list(found)
    if elapsed_s < least_s:
        sentences.append(f"{_left(least_s - elapsed_s)} more, at least")
    elif most_s is not None:
        sentences.append(f"at most {_left(most_s - elapsed_s)} more")
    return tuple(sentences)


def _passes(state: ExperimentState, metric: str, candidate: str) -> bool:
    verdict = state.verdicts.get(test_key(metric, candidate))
    return verdict is not None and verdict.outcome is Outcome.PASS


def _claim(state: ExperimentState, metric: str, candidate: str, expected: Mapping[str, Remaining]) -> str:
    verdict = state.verdicts.get(test_key(metric, candidate))
    if verdict is None or verdict.samples == 0:
        return f"{metric} of {candidate}: no data yet"
    way = 0.0 if verdict.log_need_pass <= 0 else verdict.log_e_pass / verdict.log_need_pass
    said = f"{metric} of {candidate}: {max(0.0, min(1.0, way)):.0%} of the evidence, n = {verdict.samples:,}"
    coming = expected.get(test_key(metric, candidate))
    if coming is None or not math.isfinite(coming.after_s[0]):
        return said
    return f"{said}, about {_left(coming.after_s[0])} more"


def _left(seconds: float) -> str:
    return duration(max(0.0, seconds))
