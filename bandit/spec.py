"""An experiment as the decision core sees it: validated, immutable, with units in the names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from anabranch.bandit.hooks import Gate, GateKind, Notification


class Role(StrEnum):
    """What a metric is for."""

    OBJECTIVE = "objective"  # chosen by
    GUARDRAIL = "guardrail"  # rolls back, and must hold before a promotion
    SIGNAL = "signal"  # shown


class Direction(StrEnum):
    """Which way is better, as people write it. Inside, higher is better (see `Rule.sign`)."""

    MIN = "min"
    MAX = "max"


class Statistic(StrEnum):
    """What of a metric's distribution is judged."""

    MEAN = "mean"
    P50 = "p50"
    P90 = "p90"
    P95 = "p95"
    P99 = "p99"

    @property
    def quantile(self) -> float | None:
        """The probability of a quantile, or None for the mean."""
        return None if self is Statistic.MEAN else int(self.value[1:]) / 100


class Unlabelled(StrEnum):
    """What a request counts as whose label window closed without a label."""

    AGAINST = "against"  # the worst for what is claimed: valid however labels get lost
    LEFT_OUT = "left-out"  # nothing: right where which labels are missing does not depend on the variant


LATENCY = "latency_ms"
COMPUTE = "compute_ms"
FIRST_TOKEN = "ttft_ms"
PER_TOKEN = "tpot_ms"
DURATIONS = (LATENCY, COMPUTE, FIRST_TOKEN, PER_TOKEN)
COST = "cost_per_1k"
LONG_TAILED = (*DURATIONS, COST)
LEAST_PRICE, MOST_PRICE = 1e-6, 1e6
"""Of an hour of hardware; the currency is the user's."""
ERROR = "error"
TOP1_AGREEMENT = "mirror.top1_agreement"
KL = "mirror.kl"
FEEDBACK_PREFIX = "feedback."


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One measured quantity and what is asked of it.

    Attributes:
        source: `latency_ms`, `compute_ms`, `ttft_ms`, `tpot_ms`, `cost_per_1k`, `error`, `mirror.top1_agreement`,
            `mirror.kl` or `feedback.<name>`.
        minimum: Lower limit of the statistic, in the metric's unit.
        maximum: Upper limit of the statistic, in the metric's unit.
        non_inferiority_margin: How much worse than the baseline's mean is tolerated, in the metric's unit.
        planned_benefit: Of the objective: what a candidate should gain to be worth the wait; a share of the baseline's
            quantile for a latency, else in the metric's unit. None: nobody is dropped for gaining little.
        low: Smallest possible value of a bounded metric.
        high: Largest possible value of a bounded metric.
        dry_run: Whether a guardrail is judged and shown, and neither removes anybody nor is asked for.
        hourly_price: Of a cost: what an hour of the baseline's hardware costs, which its scale begins from.
        label_window_s: Of a feedback: how long after an answer its label is waited for; requests count when that is over.
            None: a label counts when it comes.
        unlabelled: What requests without a label count as when their window closes.
    """

    name: str
    source: str
    role: Role
    statistic: Statistic = Statistic.MEAN
    direction: Direction = Direction.MAX
    minimum: float | None = None
    maximum: float | None = None
    non_inferiority_margin: float | None = None
    planned_benefit: float | None = None
    low: float = 0.0
    high: float = 1.0
    dry_run: bool = False
    hourly_price: float | None = None
    label_window_s: float | None = None
    unlabelled: Unlabelled = Unlabelled.AGAINST

    @property
    def is_long_tailed(self) -> bool:
        """Whether values lie on a logarithmic scale: durations in milliseconds, and costs."""
        return self.source in LONG_TAILED

    @property
    def lower_is_better(self) -> bool:
        """Whether smaller values are better: what `max` limits, or `direction: min` asks for."""
        return self.maximum is not None or (self.minimum is None and self.direction is Direction.MIN)

    @property
    def is_fidelity(self) -> bool:
        """Whether only compared replies to mirrored requests say it."""
        return self.source in (TOP1_AGREEMENT, KL)

    @property
    def is_paired(self) -> bool:
        """Whether compared replies to mirrored requests say something about the difference to the baseline."""
        return self.source.startswith(FEEDBACK_PREFIX) and not self.is_graded

    @property
    def fills_unlabelled(self) -> bool:
        """Whether a request without a label is set against the claim."""
        return self.label_window_s is not None and self.unlabelled is Unlabelled.AGAINST

    @property
    def is_binary(self) -> bool:
        """Whether every value is 0 or 1."""
        return not self.is_long_tailed and (self.low, self.high) == (0.0, 1.0) and not self.is_graded

    @property
    def is_graded(self) -> bool:
        """Whether values between the bounds occur: a divergence, or a numeric feedback with a declared range."""
        declared = self.source.startswith(FEEDBACK_PREFIX) and (self.low, self.high) != (0.0, 1.0)
        return declared or self.source == KL


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorStep:
    """Copy a share of the requests to every candidate and compare the replies, until metrics are decided."""

    fraction: float
    until_decided: tuple[str, ...]
    max_duration_s: float
    noise_floor: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWeightStep:
    """Give every live candidate this share of the traffic."""

    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseStep:
    """Wait for a time, or for a person when there is no duration."""

    duration_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisStep:
    """Wait until every guardrail of every live candidate is decided."""

    min_duration_s: float
    max_duration_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStep:
    """Wait until a gate opens.

    Attributes:
        max_duration_s: Closed for this long, the experiment ends undecided; None waits for ever.
    """

    gate: Gate
    max_duration_s: float | None = None


class Algorithm(StrEnum):
    """How a bandit step spreads the traffic."""

    THOMPSON = "thompson"  # top-two, constrained: the default
    PLAIN_THOMPSON = "plain-thompson"
    UNIFORM = "uniform"
    FIXED = "fixed"  # as before the step


@dataclass(frozen=True, slots=True, kw_only=True)
class BanditStep:
    """Move traffic to the best feasible candidate, epoch by epoch, until one is proven better.

    Attributes:
        tolerance: How far behind the best other candidate a winner may be: as a share of a latency's quantile, of any
            other objective's range.
        memory_s: Outcomes of the allocation are forgotten when they are between one and two of these old. Evidence is
            never forgotten.
    """

    algorithm: Algorithm
    max_weight: float
    min_prob: float
    update_period_s: float
    min_duration_s: float
    max_duration_s: float
    tolerance: float = 0.05
    memory_s: float = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteStep:
    """Raise the winner to all traffic in steps, then watch it while the baseline stays warm.

    Attributes:
        hold_back: Share that the baseline keeps until the winner is committed, so that comparisons go on.
    """

    weights: tuple[float, ...]
    interval_s: float
    bake_s: float
    hold_back: float = 0.0


Step = MirrorStep | SetWeightStep | PauseStep | GateStep | AnalysisStep | BanditStep | PromoteStep


def kind_of(step: Step) -> str:
    """A step's key in a document."""
    match step:
        case MirrorStep():
            return "mirror"
        case SetWeightStep():
            return "setWeight"
        case PauseStep():
            return "pause"
        case GateStep():
            return "gate"
        case AnalysisStep():
            return "analysis"
        case BanditStep():
            return "bandit"
        case PromoteStep():
            return "promote"
        case _:
            assert_never(step)


class Mode(StrEnum):
    """What a decision does."""

    APPLY = "apply"
    OBSERVE = "observe"  # it is recorded: steps set weights, nothing else moves traffic or promotes


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A validated experiment.

    Attributes:
        gates: What is asked at the named moments of the experiment's life.
        notifications: Who hears of every phase change.
        unit_metadata: Request metadata key that names the unit; None makes every request its own unit.
        delta: Probability of a wrong promotion, for the whole experiment.
        rollback_delta: Probability of removing any sound candidate, for the whole experiment.
        futility_beta: Probability of dropping a candidate that would reach the objective's planned benefit.
        min_age_s: No promotion begins before the experiment is this old: a day shows the day's hours.
        exposure_budget: How many more bad outcomes than allowed a candidate may at worst have had, while a guardrail
            is open, before it gets no more traffic; None: no limit.
        hourly_prices: Of each arm's hardware, by the arm's number; None where none is known. Empty where nobody asks
            for costs.
    """

    name: str
    model: str
    baseline: str
    candidates: tuple[str, ...]
    metrics: tuple[Metric, ...]
    steps: tuple[Step, ...]
    unit_metadata: str | None = None
    delta: float = 0.05
    rollback_delta: float = 0.01
    futility_beta: float = 0.2
    min_age_s: float = 0.0
    exposure_budget: float | None = None
    mode: Mode = Mode.APPLY
    gates: tuple[Gate, ...] = ()
    notifications: tuple[Notification, ...] = ()
    hourly_prices: tuple[float | None, ...] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        """The baseline, then the candidates in the order of the spec: the index is the arm's number."""
        return (self.baseline, *self.candidates)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """The arms whose costs cannot be said, where costs are asked for."""
        priced = zip(self.arms, self.hourly_prices, strict=False)
        return tuple(name for name, price in priced if price is None)

    @property
    def objective(self) -> Metric | None:
        """The metric the winner is chosen by."""
        return next((metric for metric in self.metrics if metric.role is Role.OBJECTIVE), None)

    @property
    def bandit(self) -> BanditStep | None:
        """The first bandit step."""
        return next((step for step in self.steps if isinstance(step, BanditStep)), None)

    @property
    def guardrails(self) -> tuple[Metric, ...]:
        """The metrics that must hold."""
        return tuple(
            metric for metric in self.metrics if metric.role is Role.GUARDRAIL and not metric.dry_run
        )

    @property
    def observes(self) -> bool:
        """Whether decisions are recorded only."""
        return self.mode is Mode.OBSERVE

    def gates_of(self, kind: GateKind) -> tuple[Gate, ...]:
        """The gates of one moment."""
        return tuple(gate for gate in self.gates if gate.kind is kind)

    @property
    def all_gates(self) -> tuple[Gate, ...]:
        """The named gates, then those of steps."""
        return (*self.gates, *(step.gate for step in self.steps if isinstance(step, GateStep)))
