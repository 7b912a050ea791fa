"""Worlds to try an experiment in: sound candidates and bad ones, fitted to what the experiment asks.

Each scenario says how every candidate behaves beside the baseline. Limits and margins are the experiment's own: a world
with wrong answers is wrong by three margins, a healthy one keeps every limit with room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from anabranch.bandit.costs import cost_per_1k
from anabranch.bandit.simulate import Arm, World
from anabranch.bandit.spec import (
    COST,
    DURATIONS,
    ERROR,
    FEEDBACK_PREFIX,
    TOP1_AGREEMENT,
    Experiment,
    GateStep,
    PauseStep,
    Step,
)

_SIGMA = 0.3
_TAIL = 2.33 * _SIGMA
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of world.

    Attributes:
        should: What a good rule does there: `promote`, `roll back` or `either`.
        candidate: From the baseline's arm and a sound candidate's, how a candidate behaves.
        drifts: Whether everybody's latency rises and falls.
    """

    name: str
    says: str
    should: str
    candidate: Callable[[Arm, Arm, Experiment], Arm]
    drifts: bool = False


def _healthy(_base: Arm, sound: Arm, _experiment: Experiment) -> Arm:
    return sound


def _slow(base: Arm, sound: Arm, _experiment: Experiment) -> Arm:
    return replace(sound, median_ms=1.3 * base.median_ms)


def _wrong(base: Arm, sound: Arm, experiment: Experiment) -> Arm:
    worse = max(0.1, 3.0 * _margin(experiment))
    return replace(
        sound, accuracy=base.accuracy - worse, agreement=min(sound.agreement, 1.0 - 1.5 * worse) - 0.05
    )


def _failing(_base: Arm, sound: Arm, experiment: Experiment) -> Arm:
    return replace(sound, error_rate=min(0.9, 3.0 * _error_limit(experiment) + 0.01))


def _near_tie(base: Arm, sound: Arm, _experiment: Experiment) -> Arm:
    return replace(sound, median_ms=0.99 * base.median_ms)


SCENARIOS = (
    Scenario(
        name="healthy",
        says="a quarter faster, as right as the baseline",
        should="promote",
        candidate=_healthy,
    ),
    Scenario(name="slow", says="a third slower", should="roll back", candidate=_slow),
    Scenario(name="wrong", says="wrong answers, by three margins", should="roll back", candidate=_wrong),
    Scenario(
        name="errors", says="fails three times as often as allowed", should="roll back", candidate=_failing
    ),
    Scenario(
        name="drift",
        says="healthy, while the load doubles everybody's latency and halves it",
        should="promote",
        candidate=_healthy,
        drifts=True,
    ),
    Scenario(name="tie", says="one per cent faster", should="either", candidate=_near_tie),
)
"""By name, in the order in which they are shown."""


def world_of(scenario: Scenario, experiment: Experiment, requests_per_s: float, *, horizon_s: float) -> World:
    """The world that an experiment meets in a scenario.

    Args:
        scenario: Which.
        experiment: Whose limits and margins it is fitted to.
        requests_per_s: Traffic.
        horizon_s: About how long the experiment runs: drifts go up and down twice in it.
    """
    base = _baseline(experiment)
    sound = replace(base, median_ms=0.75 * base.median_ms, agreement=_sound_agreement(experiment))
    arms = {experiment.baseline: base} | {
        name: scenario.candidate(base, sound, experiment) for name in experiment.candidates
    }

    def at(seconds: float) -> Mapping[str, Arm]:
        if not scenario.drifts:
            return arms
        factor = 2.0 ** (0.5 * math.sin(4.0 * math.pi * seconds / max(horizon_s, 1.0)))
        return {name: replace(arm, median_ms=arm.median_ms * factor) for name, arm in arms.items()}

    names = feedback_names(experiment)
    return World(arms=at, requests_per_s=requests_per_s, metric=names[0] if names else "correct")


def feedback_names(experiment: Experiment) -> list[str]:
    """Names of the feedback that is asked for."""
    sources = {metric.source for metric in experiment.metrics if metric.source.startswith(FEEDBACK_PREFIX)}
    return sorted(source.removeprefix(FEEDBACK_PREFIX) for source in sources)


def why_not(experiment: Experiment) -> str:
    """Why the worlds cannot be drawn for an experiment; empty where they can."""
    if len(feedback_names(experiment)) > 1:
        return f"feedback of {len(feedback_names(experiment))} kinds is asked for, scenarios draw one"
    for metric in experiment.metrics:
        if metric.is_graded or (
            metric.source not in (ERROR, TOP1_AGREEMENT, "latency_ms", "compute_ms")
            and (metric.source in DURATIONS)
        ):
            return f"{metric.name} needs {metric.source}, which scenarios do not draw"
    if experiment.unpriced:
        return f"there is no price of an hour for {', '.join(experiment.unpriced)}: give spec.hourlyPrices"
    return ""


def without_people(experiment: Experiment) -> Experiment:
    """The experiment with its waits for people and gates left out: they answer at once."""

    def answered(step: Step) -> Step:
        if isinstance(step, GateStep) or (isinstance(step, PauseStep) and step.duration_s is None):
            return PauseStep(duration_s=0.0)
        return step

    return replace(experiment, steps=tuple(answered(step) for step in experiment.steps))


def _baseline(experiment: Experiment) -> Arm:
    limits = [m.maximum for m in experiment.metrics if m.source in DURATIONS and m.maximum is not None]
    limits += [
        m.maximum / float(cost_per_1k(1.0, 1, m.hourly_price))
        for m in experiment.metrics
        if m.source == COST and m.maximum is not None and m.hourly_price is not None
    ]
    # With room for the tail below the strictest latency limit.
    median = 0.4 * min(limits) / math.exp(_TAIL) if limits else 20.0
    return Arm(median_ms=median, sigma=_SIGMA, error_rate=0.2 * _error_limit(experiment), accuracy=0.9)


def _sound_agreement(experiment: Experiment) -> float:
    limits = [m.minimum for m in experiment.metrics if m.source == TOP1_AGREEMENT and m.minimum is not None]
    return 1.0 - (1.0 - max(limits)) / 3.0 if limits else 0.98


def _error_limit(experiment: Experiment) -> float:
    for metric in experiment.metrics:
        if metric.source == ERROR:
            limit = metric.maximum if metric.maximum is not None else metric.non_inferiority_margin
            if limit is not None:
                return limit
    return 0.01


def _margin(experiment: Experiment) -> float:
    margins = [
        m.non_inferiority_margin or 0.0 for m in experiment.metrics if m.source.startswith(FEEDBACK_PREFIX)
    ]
    return max(margins, default=0.0)
