"""The shape of the experiment document: its fields, their names and types, each limited by itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from anabranch.bandit import hooks, spec
from anabranch.bandit.lifecycle import Phase
from anabranch.store.durations import seconds

# A name of a model or variant is a folder and a line in logs: no separators, no control characters, nothing hidden.
_FOLDER_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
_NAME = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"


Duration = Annotated[
    float,
    BeforeValidator(seconds),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d))+$",
            "description": "A number and ms, s, m, h or d, like 90s or 1h30m.",
        }
    ),
]
Percent = Annotated[float, Field(ge=0, le=100)]
Price = Annotated[float, Field(ge=spec.LEAST_PRICE, le=spec.MOST_PRICE)]


class Strict(BaseModel):
    """A mapping that refuses what it does not know, and numbers that are none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MetadataDocument(Strict):
    """What names the experiment."""

    name: str = Field(pattern=_NAME)


class UnitDocument(Strict):
    """What is randomised: the value of a request metadata key."""

    metadata: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")


class MetricDocument(Strict):
    """One metric; `source` says where it comes from, `role` what it is for."""

    name: str = Field(pattern=_NAME)
    source: str
    role: spec.Role
    statistic: spec.Statistic = spec.Statistic.MEAN
    direction: spec.Direction | None = None
    min: float | None = None
    max: float | None = None
    non_inferiority_margin: float | None = Field(default=None, alias="nonInferiorityMargin", gt=0)
    range: tuple[float, float] | None = None
    planned_benefit: float | None = Field(default=None, alias="plannedBenefit", gt=0)
    dry_run: bool = Field(default=False, alias="dryRun")
    label_window: Duration | None = Field(default=None, alias="labelWindow")
    unlabelled: spec.Unlabelled | None = None

    @property
    def better(self) -> spec.Direction:
        """Which way is better: as given, or as the source and the limit say."""
        if self.direction is not None:
            return self.direction
        lower = self.source in (*spec.LONG_TAILED, spec.ERROR) or self.max is not None
        return spec.Direction.MIN if lower else spec.Direction.MAX

    @property
    def values(self) -> tuple[float, float]:
        """The smallest and the largest value of a metric that is not a latency."""
        return self.range or (0.0, 1.0)


class MirrorDocument(Strict):
    """Copy a share of the requests to the candidates."""

    percent: Percent = Field(gt=0)
    until: dict[str, Literal["decided"]] = Field(default_factory=dict)
    max_duration: Duration = Field(alias="maxDuration")
    noise_floor: Percent = Field(default=10, alias="noiseFloor")


class PauseDocument(Strict):
    """Wait for a time, or for a person."""

    duration: Duration | None = None


class SecretDocument(Strict):
    """Where the server finds the key of a webhook's signature: exactly one of its keys."""

    env: str | None = Field(default=None, pattern=r"^ANABRANCH_WEBHOOK_[A-Z0-9_]{1,64}$")
    file: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")


class WebhookDocument(Strict):
    """Where a request goes, and how it is signed."""

    url: str = Field(pattern=r"^https?://[^\s/?#@]+(/[^\s#]*)?$", max_length=2048)
    secret: SecretDocument | None = None
    timeout: Duration = 10.0
    retries: int = Field(default=2, ge=0, le=10)


class GateStepDocument(Strict):
    """Wait until somebody agrees: a person, or a webhook."""

    name: str = Field(pattern=_NAME)
    webhook: WebhookDocument | None = None
    interval: Duration = 30.0
    failure_limit: int | None = Field(default=None, alias="failureLimit", ge=0)
    max_duration: Duration | None = Field(default=None, alias="maxDuration")


class GateDocument(Strict):
    """Somebody who must agree at a named moment."""

    name: str = Field(pattern=_NAME)
    type: Literal[
        "confirm-rollout",
        "pre-rollout",
        "confirm-traffic-increase",
        "confirm-promotion",
        "post-rollout",
        "rollback",
    ]
    webhook: WebhookDocument | None = None
    interval: Duration = 30.0
    failure_limit: int | None = Field(default=None, alias="failureLimit", ge=0)


class NotificationDocument(Strict):
    """Somebody who hears of every phase change."""

    name: str = Field(pattern=_NAME)
    webhook: WebhookDocument
    format: hooks.Format = hooks.Format.JSON
    phases: tuple[Phase, ...] = ()


class AnalysisDocument(Strict):
    """Wait until every guardrail is decided."""

    min_duration: Duration = Field(default=0.0, alias="minDuration")
    max_duration: Duration | None = Field(default=None, alias="maxDuration")


class BanditDocument(Strict):
    """Let the traffic find the best candidate."""

    algorithm: spec.Algorithm = spec.Algorithm.THOMPSON
    max_weight: Percent = Field(default=50, alias="maxWeight")
    min_prob: float = Field(default=0.02, alias="minProb", gt=0, le=0.5)
    update_period: Duration = Field(default=60.0, alias="updatePeriod")
    min_duration: Duration = Field(default=0.0, alias="minDuration")
    max_duration: Duration = Field(alias="maxDuration")
    tolerance: Percent = 5
    memory: Duration = 86_400.0


class PromoteDocument(Strict):
    """Raise the winner to all traffic."""

    steps: tuple[Percent, ...] = (100,)
    interval: Duration = 60.0
    bake: Duration = 0.0
    hold_back: Percent | None = Field(default=None, alias="holdBack", le=50)


class StepDocument(Strict):
    """One step: exactly one of its keys."""

    mirror: MirrorDocument | None = None
    set_weight: Percent | None = Field(default=None, alias="setWeight")
    pause: PauseDocument | None = None
    gate: GateStepDocument | None = None
    analysis: AnalysisDocument | None = None
    bandit: BanditDocument | None = None
    promote: PromoteDocument | None = None


class SpecDocument(Strict):
    """What is compared, by what, and how."""

    model: str = Field(pattern=_FOLDER_NAME)
    baseline: str = Field(pattern=_FOLDER_NAME)
    candidates: tuple[Annotated[str, Field(pattern=_FOLDER_NAME)], ...] = Field(min_length=1, max_length=100)
    unit: UnitDocument | None = None
    hourly_prices: dict[str, Price] = Field(default_factory=dict, alias="hourlyPrices")
    metrics: tuple[MetricDocument, ...] = Field(min_length=1)
    delta: float = Field(default=0.05, gt=0, lt=0.5)
    rollback_delta: float = Field(default=0.01, alias="rollbackDelta", gt=0, lt=0.5)
    futility_beta: float = Field(default=0.2, alias="futilityBeta", gt=0, lt=0.5)
    min_age: Duration = Field(default=0.0, alias="minAge")
    exposure_budget: float | None = Field(default=None, alias="exposureBudget", gt=0)
    mode: spec.Mode = spec.Mode.APPLY
    gates: tuple[GateDocument, ...] = ()
    notifications: tuple[NotificationDocument, ...] = ()
    steps: tuple[StepDocument, ...] = Field(min_length=1)
    on_no_data: Literal["hold"] = Field(default="hold", alias="onNoData")


class ExperimentDocument(Strict):
    """The whole document."""

    api_version: Literal["anabranch/v1"] = Field(alias="apiVersion")
    kind: Literal["Experiment"]
    metadata: MetadataDocument
    spec: SpecDocument
