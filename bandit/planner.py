"""How long will it take? From a spec and assumptions about its traffic to the time of every step and verdict.

A claim gathers information at a rate, in nats per second, that depends on the weights of the step it is in; what
mirrored pairs and the split tell adds up. Its test decides when the information exceeds the evidence that is needed by
the method's overhead; around that mean the time varies as `first_passage` says. A plan at 90 % asks every claim for the
information that suffices in 90 of 100 runs, all at once, which is on the long side where several claims are waited for.

A plan is for sound candidates that are as good as is assumed. It says nothing about bad ones, which leave earlier, and
takes it that people answer at once. A bandit step is planned with equal weights, and without telling rivals apart.

Source:
    Rates: `information`. Overheads: `bounds.OVERHEAD_NATS`, measured in simulation.
    tests/sim/stats/test_plans_hold.py compares plans with runs of the closed loop.
"""

import math
from dataclasses import dataclass, field
from typing import assert_never

from anabranch.bandit.bounds import OVERHEAD_NATS
from anabranch.bandit.first_passage import needed_nats
from anabranch.bandit.information import Assumptions, Exposure, gauges
from anabranch.bandit.judge import log_need_pass
from anabranch.bandit.spec import (
    AnalysisStep,
    BanditStep,
    Experiment,
    GateStep,
    Metric,
    MirrorStep,
    PauseStep,
    PromoteStep,
    Role,
    SetWeightStep,
    Step,
    kind_of,
)

LEVELS = (0.5, 0.9)
"""The shares of runs that a plan speaks of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPlan:
    """When one metric of one candidate passes, by level of `LEVELS`; +inf when it does not under the assumptions.

    Attributes:
        after_s: Seconds since the start.
        requests: Routed to the model until then.
    """

    metric: str
    after_s: tuple[float, ...]
    requests: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """When one step ends, in seconds since the start, by level of `LEVELS`; +inf when it waits without a limit.

    Attributes:
        kind: The step's name in a document.
    """

    kind: str
    ends_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole experiment, planned.

    Attributes:
        is_decided: By level, whether every claim passes before a step gives up.
    """

    claims: tuple[ClaimPlan, ...]
    steps: tuple[StepPlan, ...]
    is_decided: tuple[bool, ...]


def plan(experiment: Experiment, assumed: Assumptions) -> Plan:
    """Plan an experiment."""
    walks = [_walk(experiment, assumed, level) for level in LEVELS]
    claims = [metric for metric in experiment.metrics if metric.role is not Role.SIGNAL]
    return Plan(
        claims=tuple(
            ClaimPlan(
                metric=metric.name,
                after_s=tuple(walk.passed.get(metric.name, math.inf) for walk in walks),
                requests=tuple(
                    walk.passed.get(metric.name, math.inf) * assumed.requests_per_s for walk in walks
                ),
            )
            for metric in claims
        ),
        steps=tuple(
            StepPlan(kind=kind_of(step), ends_s=tuple(walk.ends[index] for walk in walks))
            for index, step in enumerate(experiment.steps)
        ),
        is_decided=tuple(all(metric.name in walk.passed for metric in claims) for walk in walks),
    )


@dataclass(slots=True)
class _Walk:
    """One way through the steps: the clock, and how much every claim still needs.

    Attributes:
        waiting: By claim, the seconds until its first label windows close.
    """

    experiment: Experiment
    assumed: Assumptions
    level: float
    now: float = 0.0
    weight: float = 0.0
    mirror: MirrorStep | None = None
    missing: dict[str, list[float]] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)
    passed: dict[str, float] = field(default_factory=dict)
    ends: list[float] = field(default_factory=list)

    @property
    def exposure(self) -> Exposure:
        share = self.weight * len(self.experiment.candidates)
        mirrored = self.mirror.fraction if self.mirror is not None else 0.0
        return Exposure(weight=self.weight, baseline=max(1.0 - share, 0.0), mirrored=mirrored)

    def times_left(self) -> dict[str, float]:
        """By open claim, the seconds until it passes if nothing changes."""
        left = {}
        for metric in self._claims():
            if metric.name in self.passed:
                continue
            found = gauges(metric, self.assumed, self.exposure)
            need = log_need_pass(self.experiment)
            missing = self.missing.setdefault(
                metric.name,
                [needed_nats(need, OVERHEAD_NATS[gauge.method], self.level) for gauge in found],
            )
            left[metric.name] = self.waiting.setdefault(metric.name, metric.label_window_s or 0.0) + max(
                (
                    nats / gauge.nats_per_s if gauge.nats_per_s > 0.0 else math.inf
                    for nats, gauge in zip(missing, found, strict=True)
                    if nats > 0.0
                ),
                default=0.0,
            )
        return left

    def spend(self, seconds: float) -> None:
        """Let time go by; claims that pass are noted."""
        left = self.times_left()
        for metric in self._claims():
            if metric.name in self.passed:
                continue
            if math.isinf(left[metric.name]) and math.isinf(seconds):
                continue
            if left[metric.name] <= seconds:
                self.passed[metric.name] = self.now + left[metric.name]
                continue
            found = gauges(metric, self.assumed, self.exposure)
            waited = min(self.waiting[metric.name], seconds) if any(g.nats_per_s for g in found) else 0.0
            self.waiting[metric.name] -= waited
            self.missing[metric.name] = [
                nats - gauge.nats_per_s * (seconds - waited)
                for nats, gauge in zip(self.missing[metric.name], found, strict=True)
            ]
        self.now += seconds

    def settle_mirror(self) -> None:
        """Copies end with the metrics that asked for them."""
        if self.mirror is not None and all(name in self.passed for name in self.mirror.until_decided):
            self.mirror = None

    def wait(self, names: set[str], *, least_s: float, most_s: float) -> None:
        """Stay until the named claims have passed, at least and at most a time; mirrors end meanwhile."""
        began = self.now
        while True:
            elapsed = self.now - began
            left = self.times_left()
            own = max((left[name] for name in names if name in left), default=0.0)
            stay = min(max(own, least_s - elapsed), most_s - elapsed)
            if self.mirror is not None and self.mirror.until_decided:
                asked = max((left[n] for n in self.mirror.until_decided if n in left), default=0.0)
                if asked < stay:
                    self.spend(asked)
                    self.settle_mirror()
                    continue
            self.spend(stay)
            return

    def _claims(self) -> list[Metric]:
        return [metric for metric in self.experiment.metrics if metric.role is not Role.SIGNAL]


def _walk(experiment: Experiment, assumed: Assumptions, level: float) -> _Walk:
    walk = _Walk(experiment=experiment, assumed=assumed, level=level)
    for index, step in enumerate(experiment.steps):
        if not math.isinf(walk.now):
            _take(walk, step, is_last_chance=_is_last_chance(experiment, index))
        walk.ends.append(walk.now)
    return walk


def _take(walk: _Walk, step: Step, *, is_last_chance: bool) -> None:
    guardrails = {metric.name for metric in walk.experiment.guardrails}
    objective = {walk.experiment.objective.name} if walk.experiment.objective else set()
    match step:
        case MirrorStep():
            walk.mirror = step
            walk.wait(
                set(step.until_decided),
                least_s=0.0 if step.until_decided else step.max_duration_s,
                most_s=step.max_duration_s,
            )
            if not step.until_decided:
                walk.mirror = None
            walk.settle_mirror()
        case SetWeightStep():
            walk.weight = step.weight
        case PauseStep():
            walk.wait(set(), least_s=step.duration_s or 0.0, most_s=math.inf)
        case GateStep():
            pass  # How long a person takes is nothing that can be planned.
        case AnalysisStep():
            limit = math.inf if step.max_duration_s is None else step.max_duration_s
            names = guardrails | (objective if is_last_chance else set())
            walk.wait(names, least_s=step.min_duration_s, most_s=limit)
        case BanditStep():
            walk.weight = min(step.max_weight, 1.0 / (len(walk.experiment.candidates) + 1))
            walk.wait(guardrails | objective, least_s=step.min_duration_s, most_s=step.max_duration_s)
        case PromoteStep():
            walk.now += step.interval_s * (len(step.weights) - 1) + step.bake_s
        case _:
            assert_never(step)


def _is_last_chance(experiment: Experiment, index: int) -> bool:
    """Whether an analysis also waits for the objective, since no bandit step comes before the promotion."""
    later = experiment.steps[index + 1 :]
    return any(isinstance(step, PromoteStep) for step in later) and not any(
        isinstance(step, BanditStep) for step in later
    )
