"""What a server answers, as values; in a notebook they show themselves as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anabranch.client.notebook import page, share, table, when


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Something asked of an experiment, which a decision will answer."""

    id: int
    experiment: str
    verb: str
    argument: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was concluded about one metric of one candidate.

    Attributes:
        outcome: PASS, FAIL, INCONCLUSIVE or ERROR.
        samples: Outcomes, or pairs, behind the numbers.
        estimate: The judged quantity, in the metric's unit; None without data.
        low: Lower end of its confidence sequence.
        high: Upper end.
        baseline: The same quantity for the baseline.
        limit: What the estimate is held against.
        reason: One sentence with both numbers.
    """

    metric: str
    variant: str
    outcome: str
    samples: int
    estimate: float | None
    low: float | None
    high: float | None
    baseline: float | None
    limit: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A candidate that left, and why."""

    variant: str
    at_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment as it is at one moment.

    Attributes:
        phase: Pending, Progressing, Paused, Inconclusive, Promoting, Promoted, RolledBack or Aborted.
        is_over: Whether nothing happens any more without a person.
        step: Number of the current step from 1; 0 before the start.
        weights: Share of every arm, in [0, 1].
        live: Candidates still in it.
        requests: Requests served, by arm.
        pending: What no decision has answered yet.
        document: What was applied.
        state: The whole state, where it was asked for.
    """

    id: int
    name: str
    model: str
    baseline: str
    candidates: tuple[str, ...]
    phase: str
    is_over: bool
    spec_version: int
    state_version: int
    applied_s: float
    started_s: float
    step: int
    steps: int
    weights: Mapping[str, float]
    live: tuple[str, ...]
    removed: tuple[Removal, ...]
    winner: str | None
    requests: Mapping[str, int]
    verdicts: tuple[Verdict, ...]
    pending: tuple[Request, ...]
    document: Mapping[str, Any] = field(repr=False)
    first_delta: int = field(default=0, repr=False)
    first_epoch: int = field(default=0, repr=False)
    state_json: str = field(default="", repr=False)

    def verdict(self, metric: str, variant: str) -> Verdict | None:
        """One verdict; None while there is none."""
        found = (each for each in self.verdicts if (each.metric, each.variant) == (metric, variant))
        return next(found, None)

    def _repr_html_(self) -> str:
        """Show the experiment in a notebook."""
        gone = {removal.variant: removal.reason for removal in self.removed}
        arms = [
            (
                arm,
                "baseline"
                if arm == self.baseline
                else gone.get(arm, "winner" if arm == self.winner else "live"),
                share(self.weights.get(arm, 0.0)),
                f"{self.requests.get(arm, 0):,}",
            )
            for arm in (self.baseline, *self.candidates)
        ]
        told = [(each.metric, each.variant, each.outcome, each.reason) for each in self.verdicts]
        return page(
            f"{self.name}: {self.phase}",
            f"model {self.model}, step {self.step} of {self.steps}",
            table(("variant", "", "share", "requests"), arms),
            table(("metric", "variant", "verdict", ""), told) if told else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing a decision does, and why."""

    change: str
    variant: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one tick decided.

    Attributes:
        handled: Ids of the requests that it answers.
        hash: Of the decision and all before it.
        body_json: What the hash is of.
        seal: Digest of the document and the evidence it rests on.
    """

    spec_version: int
    number: int
    at_s: float
    phase: str
    weights: Mapping[str, float]
    actions: tuple[Action, ...]
    handled: tuple[int, ...]
    previous_hash: str = field(repr=False)
    hash: str = field(repr=False)
    body_json: str = field(default="", repr=False)
    seal: str = field(default="", repr=False)

    @property
    def summary(self) -> str:
        """The reasons, in one line."""
        return "; ".join(action.reason for action in self.actions)

    def _repr_html_(self) -> str:
        """Show the decision in a notebook."""
        rows = [(action.change, action.variant, action.reason) for action in self.actions]
        return page(
            f"decision {self.number}: {self.phase}",
            when(self.at_s),
            table(("change", "variant", "why"), rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A line of the audit log."""

    id: int
    at_s: float
    actor: str
    experiment: str
    verb: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A document that was applied, or taken while the experiment went on."""

    version: int
    document: Mapping[str, Any] = field(repr=False)
    applied_s: float
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """A time in which a variant is its model's baseline; it ends with the next one's beginning.

    Attributes:
        experiment: Which made it so; empty when a person chose.
        decision: That experiment's decision, 0 when a person chose.
    """

    model: str
    since_s: float
    variant: str
    experiment: str
    decision: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one tick folded in, as JSON.

    Attributes:
        spec_version: Of every version only; 0 otherwise.
    """

    body_json: str = field(repr=False)
    spec_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """An experiment, its last decisions and its audit log, read together."""

    experiment: Experiment
    decisions: tuple[Decision, ...]
    events: tuple[Event, ...]

    def _repr_html_(self) -> str:
        """Show all of it in a notebook."""
        rows = [(each.number, when(each.at_s), each.phase, each.summary) for each in self.decisions]
        return self.experiment._repr_html_() + table(("#", "when", "phase", "why"), rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What applying a document came to.

    Attributes:
        outcome: created, configured or unchanged.
        experiment: None after a dry run of a new one.
    """

    name: str
    outcome: str
    experiment: Experiment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a recomputation of every decision found."""

    matches: bool
    decisions: int
    verdicts: int
    head: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A variant that is served.

    Attributes:
        gate: PASS, FAIL or INCONCLUSIVE; empty where there was nothing to judge by.
        accuracy: Share of right answers on held-out requests.
        top1_agreement: Share of rows with the reference's top class.
        compared: How many rows that is of.
        latency_ms: The median of calls with the smallest measured batch, when it was built.
        generates: Answers are made token by token.
        hourly_price: Of an hour of its hardware, in the user's currency; None where nobody said it.
    """

    model: str
    name: str
    engine: str
    device: str
    recipe: str
    size_bytes: int
    is_baseline: bool
    gate: str
    gate_reason: str
    accuracy: float | None
    top1_agreement: float | None
    cache_key: str = field(repr=False)
    compared: int = 0
    latency_ms: float | None = None
    generates: bool = False
    hourly_price: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whom a server takes the caller for."""

    actor: str
    role: str
    models: tuple[str, ...]
    permissions: tuple[str, ...]
    server_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackResult:
    """What became of one outcome.

    Attributes:
        problem: Why it was not accepted, and what to do; empty when it was.
    """

    accepted: bool
    problem: str = ""
