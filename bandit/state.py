"""Everything an experiment remembers between two ticks, as one immutable value that can be saved whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from anabranch.bandit.betting import ContrastState, MeanState
from anabranch.bandit.drift import DriftState
from anabranch.bandit.evidence import Window
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.paired import PairedState
from anabranch.bandit.scales import Histogram
from anabranch.bandit.srm import SrmState
from anabranch.bandit.verdicts import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A candidate that left the experiment, and why."""

    variant: str
    at_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """All outcomes of one arm so far.

    Attributes:
        metrics: By source, the histogram of all outcomes.
        split: The same for the compared metrics' sources, from epochs only in which the baseline and a candidate
            had traffic: what arms may be compared by.
        paired: By source, the histogram of compared replies.
        windows: By source with a label window, what became of the requests'.
        paired_windows: The same of compared replies.
    """

    requests: int = 0
    units: int = 0
    masked: int = 0
    pairs: int = 0
    pairs_failed: int = 0
    metrics: Mapping[str, Histogram] = field(default_factory=dict)
    split: Mapping[str, Histogram] = field(default_factory=dict)
    paired: Mapping[str, Histogram] = field(default_factory=dict)
    windows: Mapping[str, Window] = field(default_factory=dict)
    paired_windows: Mapping[str, Window] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricTests:
    """The running tests of one metric of one candidate, for and against it; None where a kind is not used."""

    split_for: ContrastState | None = None
    split_against: ContrastState | None = None
    paired_for: PairedState | None = None
    paired_against: PairedState | None = None
    mean_for: MeanState | None = None
    mean_against: MeanState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """The outcomes that an allocation looks at: two generations, of which the older is forgotten as a whole.

    Attributes:
        begun_s: When the younger generation began.
        younger: By arm, outcomes since then.
        older: By arm, outcomes of the generation before.
    """

    begun_s: float = 0.0
    younger: Mapping[str, Totals] = field(default_factory=dict)
    older: Mapping[str, Totals] = field(default_factory=dict)


class Reply(StrEnum):
    """What a gate said last."""

    NONE = "none"  # nobody has answered yet
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"  # the question broke: holds, and never condemns


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVisit:
    """One gate on one occasion.

    Attributes:
        occasion: What waits for it.
        since_s: When it was reached.
        epoch: The epoch in which it was reached: tells a retry's question from an earlier one.
        answers: Recorded answers so far.
        refusals: How many of them were a no.
        entered: Whether the step that waited for it has taken effect.
        detail: What was said, or by whom it was approved.
    """

    occasion: str
    since_s: float
    epoch: int
    reply: Reply = Reply.NONE
    answers: int = 0
    refusals: int = 0
    entered: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentState:
    """Where an experiment stands.

    Attributes:
        decisions: How many decisions were taken.
        step: Index into the spec's steps.
        step_started_s: When the step began; time spent paused is left out, by moving it.
        paused_s: When the pause began, None while there is none.
        part: Index into the weights of a promote step.
        epoch: Number of the current stretch of constant weights; counts on over spec versions.
        weights: Share of every arm by name.
        mirror: Share of the requests that is copied to the live candidates.
        live: Candidates still in the experiment, in the spec's order.
        tests: The running tests, by `metric/variant`.
        verdicts: The last verdicts, by `metric/variant`.
        reference: By latency source, recent outcomes of the baseline in the split: where quantiles are compared.
        sample_ratio: The running test of whether units arrive as the weights say.
        drift: By `source/arm`, whether the arm's outcomes in the split stand still.
        rivals: By `leader>rival`, the running test that a leader is not too far behind another candidate.
        recent: What the next weights are drawn from; None without a bandit step.
        cursor: Last delta folded in.
        allocated_s: When a bandit step last moved the weights.
        gates: By name, the last visit to a gate.
        proposed: Where decisions are recorded only: the weights that were last decided.
    """

    phase: Phase = Phase.PENDING
    decisions: int = 0
    step: int = 0
    step_started_s: float = 0.0
    paused_s: float | None = None
    part: int = 0
    epoch: int = 0
    epoch_started_s: float = 0.0
    started_s: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)
    mirror: float = 0.0
    live: tuple[str, ...] = ()
    removed: tuple[Removal, ...] = ()
    winner: str | None = None
    totals: Mapping[str, Totals] = field(default_factory=dict)
    tests: Mapping[str, MetricTests] = field(default_factory=dict)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    reference: Mapping[str, Histogram] = field(default_factory=dict)
    sample_ratio: SrmState | None = None
    drift: Mapping[str, DriftState] = field(default_factory=dict)
    rivals: Mapping[str, ContrastState] = field(default_factory=dict)
    recent: Recent | None = None
    cursor: int = 0
    allocated_s: float = 0.0
    gates: Mapping[str, GateVisit] = field(default_factory=dict)
    proposed: Mapping[str, float] = field(default_factory=dict)
