"""What people see of experiments, as values: `-o json` and `-o yaml` print exactly these fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class StepState(StrEnum):
    """Where a step stands in the life of its experiment."""

    DONE = "done"
    CURRENT = "current"
    WAITING = "waiting"
    SKIPPED = "skipped"
    STOPPED = "stopped"


class ArmState(StrEnum):
    """Where a variant stands in its experiment."""

    BASELINE = "baseline"
    LIVE = "live"
    WINNER = "winner"
    REMOVED = "removed"
    WAITING = "waiting"


class Unit(StrEnum):
    """What a metric's numbers are in; a share is shown in per cent."""

    MS = "ms"
    SHARE = "share"
    PLAIN = "plain"
    PER_1K = "per_1k"  # money, in the currency of the prices, for 1,000 requests


class Limit(StrEnum):
    """How an estimate is held against its limit."""

    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    MARGIN = "margin"
    BETTER = "better"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRow:
    """One line of the list of experiments.

    Attributes:
        step: Number of the current step from 1; 0 before the start.
        step_name: Its kind and main setting, for example `setWeight 5%`.
        step_elapsed_s: Seconds in it; None when the experiment is over or has not begun.
        weights: Share of every arm with traffic, in [0, 1].
        age_s: Seconds since the document was applied.
    """

    name: str
    model: str
    phase: str
    step: int
    steps: int
    step_name: str
    step_elapsed_s: float | None
    weights: Mapping[str, float]
    live: int
    candidates: int
    winner: str | None
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One step of the strategy.

    Attributes:
        number: From 1.
        kind: Its key in the document.
        title: Kind and main setting in a few characters.
        detail: When it is over, in words.
        state: Whether it is done, running, to come, was jumped over, or is where the experiment ended.
        progress: What a running step is at, for example the ramp's weight; empty otherwise.
        elapsed_s: Seconds spent in it; None before it began.
    """

    number: int
    kind: str
    title: str
    detail: str
    state: StepState
    progress: str
    elapsed_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalView:
    """An estimate with its confidence sequence, in the unit of its metric."""

    estimate: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileView:
    """A quantile of a variant's latencies over the whole run, with its confidence sequence.

    Attributes:
        probability: Which one, in (0, 1).
        low_ms: 0 where nothing is excluded yet.
        high_ms: Infinite where nothing is excluded yet.
    """

    probability: float
    estimate_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictView:
    """What is known about one metric of one candidate.

    Attributes:
        unit: What `estimate`, `low`, `high`, `baseline` and `limit_value` are in.
        is_difference: Whether the estimate is candidate minus baseline.
        limit: What the estimate is held against, in words.
        limit_kind: The same for programs.
        limit_value: The number in the limit; None for an objective or a signal.
        evidence_for: How many times likelier the outcomes are if the metric holds; capped at 1e12.
        evidence_for_needed: What proves it.
        evidence_against: The same for a metric that does not hold.
        evidence_against_needed: What disproves it.
        evidence_by_counts: As `evidence_for`, from the counts of the split alone, which assumes that the arms stand
            still: None while one moves, and where nothing is compared. It decides nothing.
        progress: The way to a PASS on the logarithmic scale of evidence, in [0, 1].
        decided_s: When it was decided, in seconds since 1970.
        expected_half_s: Seconds from now until half of such runs prove it, under the current weights and if the
            candidate is as good as it looks; None where nothing can be said, or it would not be proven.
        expected_most_s: The same for nine of ten.
    """

    metric: str
    source: str
    role: str
    statistic: str
    unit: Unit
    is_difference: bool
    outcome: str
    estimate: float | None
    low: float | None
    high: float | None
    baseline: float | None
    limit: str
    limit_kind: Limit
    limit_value: float | None
    samples: int
    evidence_for: float
    evidence_for_needed: float
    evidence_against: float
    evidence_against_needed: float
    evidence_by_counts: float | None
    progress: float
    decided_s: float | None
    expected_half_s: float | None
    expected_most_s: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsView:
    """What became of the label windows of one variant's requests.

    Attributes:
        source: The feedback, such as `feedback.correct`.
        is_paired: Whether it is about compared replies; of those, two that agree need no label and count as labelled.
        waiting: Requests whose window is open.
        labelled: Requests that count, with a label that came in time.
        unlabelled: Requests whose window closed without one.
        late: Labels that came too late, and count for nothing.
    """

    source: str
    is_paired: bool
    waiting: int
    labelled: int
    unlabelled: int
    late: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmView:
    """One variant in an experiment.

    Attributes:
        weight: Share it is meant to get now, in [0, 1].
        requests: Requests it served since the experiment began.
        share_observed: Its share of them; None before the first.
        requests_per_s: Over the last seconds where two looks were taken, else since the start.
        quantiles: Of its latencies over the whole run: p50, p95 and p99; none without data.
        best_probability: Posterior probability that it is the best variant which keeps the guardrails: what the bandit
            draws by, no proof. None without an objective, before outcomes of it, and when the experiment is over.
        error_rate: Share of its evaluated requests that failed; None without data.
        masked: Requests in which it failed and the baseline answered.
        mirrored_pairs: Replies compared with the baseline's.
        agreement: Share of compared replies with the same top class. The baseline's is the noise floor.
        removed_reason: Why it left the experiment; empty while it is in.
        labels: Of every feedback with a label window.
    """

    name: str
    role: str
    state: ArmState
    weight: float
    requests: int
    units: int
    share_observed: float | None
    requests_per_s: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    quantiles: tuple[QuantileView, ...]
    best_probability: float | None
    error_rate: float | None
    masked: int
    mirrored_pairs: int
    mirrored_failed: int
    agreement: IntervalView | None
    verdicts: tuple[VerdictView, ...]
    removed_s: float | None
    removed_reason: str
    labels: tuple[LabelsView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionView:
    """One thing a decision did."""

    change: str
    variant: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionView:
    """One entry of the decision log.

    Attributes:
        at_s: Seconds since 1970.
        at: The same in UTC, ISO 8601.
        since_start_s: Seconds since the first decision of its spec version.
        weights: Share of every arm from then on.
        evidence_last: Last delta of the evidence it rests on.
    """

    number: int
    spec_version: int
    at_s: float
    at: str
    since_start_s: float
    phase: str
    step: int
    epoch: int
    weights: Mapping[str, float]
    actions: tuple[ActionView, ...]
    evidence_last: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """What a person asked for and no decision has answered yet."""

    verb: str
    argument: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentView:
    """Everything about one experiment.

    Attributes:
        unit: Request metadata key that names the unit; None when every request is its own.
        mirror: Share of the requests that is copied.
        elapsed_s: Seconds from its start to now, or to its end; None before the start.
        waiting_for: What must happen before it goes on, in sentences.
        decisions: The last ones, oldest first.
        decisions_total: How many there are.
    """

    name: str
    model: str
    baseline: str
    phase: str
    is_over: bool
    spec_version: int
    unit: str | None
    objective: str | None
    delta: float
    rollback_delta: float
    at_s: float
    applied_s: float
    age_s: float
    elapsed_s: float | None
    step: int
    steps: tuple[StepView, ...]
    mirror: float
    winner: str | None
    arms: tuple[ArmView, ...]
    waiting_for: tuple[str, ...]
    requests: tuple[RequestView, ...]
    decisions: tuple[DecisionView, ...]
    decisions_total: int
