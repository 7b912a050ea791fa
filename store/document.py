"""The experiment document: the YAML or JSON people write, checked in whole, turned into a `spec.Experiment`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from anabranch.bandit import spec
from anabranch.bandit.scales import LATENCY_SCALE

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_NAME = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
_SOURCES = (spec.LATENCY, spec.COMPUTE, spec.ERROR, spec.TOP1_AGREEMENT)


class InvalidDocument(ValueError):
    """The experiment document has problems; `problems` lists every one with its path and reason."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def seconds(value: object) -> float:
    """A duration such as `90s`, `10m` or `1h30m`, in seconds.

    Raises:
        ValueError: If the text is not a duration.
    """
    text = str(value)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(
            f"{text!r} is not a duration: write a number and ms, s, m, h or d, like 90s or 1h30m"
        )
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


Duration = Annotated[float, BeforeValidator(seconds)]
Percent = Annotated[float, Field(ge=0, le=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MetadataDocument(_Strict):
    """What names the experiment."""

    name: str = Field(pattern=_NAME)


class UnitDocument(_Strict):
    """What is randomised: the value of a request metadata key."""

    metadata: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")


class MetricDocument(_Strict):
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


class MirrorDocument(_Strict):
    """Copy a share of the requests to the candidates."""

    percent: Percent = Field(gt=0)
    until: dict[str, Literal["decided"]] = Field(default_factory=dict)
    max_duration: Duration = Field(alias="maxDuration")
    noise_floor: Percent = Field(default=10, alias="noiseFloor")


class PauseDocument(_Strict):
    """Wait for a time, or for a person."""

    duration: Duration | None = None


class AnalysisDocument(_Strict):
    """Wait until every guardrail is decided."""

    min_duration: Duration = Field(default=0.0, alias="minDuration")
    max_duration: Duration | None = Field(default=None, alias="maxDuration")


class BanditDocument(_Strict):
    """Let the traffic find the best candidate."""

    algorithm: spec.Algorithm = spec.Algorithm.THOMPSON
    max_weight: Percent = Field(default=50, alias="maxWeight")
    min_prob: float = Field(default=0.02, alias="minProb", gt=0, le=0.5)
    update_period: Duration = Field(default=60.0, alias="updatePeriod")
    min_duration: Duration = Field(default=0.0, alias="minDuration")
    max_duration: Duration = Field(alias="maxDuration")
    tolerance: Percent = 5


class PromoteDocument(_Strict):
    """Raise the winner to all traffic."""

    steps: tuple[Percent, ...] = (100,)
    interval: Duration = 60.0
    bake: Duration = 0.0


class StepDocument(_Strict):
    """One step: exactly one of its keys."""

    mirror: MirrorDocument | None = None
    set_weight: Percent | None = Field(default=None, alias="setWeight")
    pause: PauseDocument | None = None
    analysis: AnalysisDocument | None = None
    bandit: BanditDocument | None = None
    promote: PromoteDocument | None = None


class SpecDocument(_Strict):
    """What is compared, by what, and how."""

    model: str = Field(min_length=1)
    baseline: str = Field(min_length=1)
    candidates: tuple[str, ...] = Field(min_length=1, max_length=100)
    unit: UnitDocument | None = None
    metrics: tuple[MetricDocument, ...] = Field(min_length=1)
    delta: float = Field(default=0.05, gt=0, lt=0.5)
    rollback_delta: float = Field(default=0.01, alias="rollbackDelta", gt=0, lt=0.5)
    steps: tuple[StepDocument, ...] = Field(min_length=1)
    on_no_data: Literal["hold"] = Field(default="hold", alias="onNoData")


class ExperimentDocument(_Strict):
    """The whole document."""

    api_version: Literal["anabranch/v1"] = Field(alias="apiVersion")
    kind: Literal["Experiment"]
    metadata: MetadataDocument
    spec: SpecDocument


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the document, for editors."""
    return ExperimentDocument.model_json_schema(by_alias=True)


def read_document(text: str) -> dict[str, Any]:
    """Parse YAML (or JSON, which is YAML) into a mapping.

    Raises:
        InvalidDocument: If the text is not YAML, or not one mapping.
    """
    try:
        loaded = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Not only YAMLError: a date such as 2024-02-30 or a very deep list fails in other ways.
        raise InvalidDocument([f"not valid YAML: {error}"]) from error
    if not isinstance(loaded, dict):
        raise InvalidDocument([f"the document is {type(loaded).__name__}, must be a mapping with apiVersion"])
    return loaded


def parse(document: Mapping[str, Any]) -> spec.Experiment:
    """Turn a document into an experiment.

    Raises:
        InvalidDocument: With every problem at once, each with its path and reason.
    """
    try:
        parsed = ExperimentDocument.model_validate(document)
    except ValidationError as error:
        raise InvalidDocument([_problem(item) for item in error.errors()]) from error
    problems = [*_metric_problems(parsed.spec), *_arm_problems(parsed.spec), *_step_problems(parsed.spec)]
    if problems:
        raise InvalidDocument(problems)
    return spec.Experiment(
        name=parsed.metadata.name,
        model=parsed.spec.model,
        baseline=parsed.spec.baseline,
        candidates=parsed.spec.candidates,
        metrics=tuple(_metric(metric) for metric in parsed.spec.metrics),
        steps=tuple(_step(step) for step in parsed.spec.steps),
        unit_metadata=parsed.spec.unit.metadata if parsed.spec.unit else None,
        delta=parsed.spec.delta,
        rollback_delta=parsed.spec.rollback_delta,
    )


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _aliases(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _problem(item: Any) -> str:
    path = _path(item["loc"])
    if item["type"] == "extra_forbidden":
        known = sorted({name for kind in _Strict.__subclasses__() for name in _aliases(kind)})
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        return f"{path}: unknown field" + (f", did you mean {near[0]}?" if near else ", remove it")
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{path}: required, and missing"
    given = item.get("input")
    shown = (
        f" (given {given!r})" if isinstance(given, str | int | float) and repr(given) not in message else ""
    )
    return f"{path}: {message}{shown}"


def _arm_problems(body: SpecDocument) -> list[str]:
    problems = []
    if body.baseline in body.candidates:
        problems.append(f"spec.candidates: {body.baseline} is the baseline, so it cannot be a candidate")
    problems += [
        f"spec.candidates: {name} is listed {body.candidates.count(name)} times, list it once"
        for name in sorted(set(body.candidates))
        if body.candidates.count(name) > 1
    ]
    return problems


def _metric_problems(body: SpecDocument) -> list[str]:
    problems: list[str] = []
    names = [metric.name for metric in body.metrics]
    for index, metric in enumerate(body.metrics):
        at = f"spec.metrics[{index}] ({metric.name})"
        is_latency = metric.source in (spec.LATENCY, spec.COMPUTE)
        limits = [metric.min, metric.max, metric.non_inferiority_margin]
        given = sum(limit is not None for limit in limits)
        if names.index(metric.name) != index:
            problems.append(f"{at}: the name is used twice, rename one")
        if metric.source not in _SOURCES and not re.fullmatch(r"feedback\.[a-z0-9_]{1,64}", metric.source):
            problems.append(
                f"{at}: source {metric.source!r} is not measured: allowed are {', '.join(_SOURCES)} and feedback.<name>"
            )
        if metric.statistic is not spec.Statistic.MEAN and not is_latency:
            problems.append(
                f"{at}: statistic {metric.statistic} needs a latency source, {metric.source} has a mean only"
            )
        if metric.statistic is spec.Statistic.MEAN and is_latency and metric.role is not spec.Role.SIGNAL:
            problems.append(f"{at}: a latency is judged by a quantile: set statistic to p50, p90, p95 or p99")
        if metric.range is not None and (
            not metric.source.startswith("feedback.") or metric.range[0] >= metric.range[1]
        ):
            problems.append(
                f"{at}: range {list(metric.range)} must be [low, high] with low < high, on a feedback source"
            )
        if metric.role is spec.Role.GUARDRAIL and given != 1:
            problems.append(
                f"{at}: a guardrail needs exactly one of min, max and nonInferiorityMargin, {given} given"
            )
        if metric.role is not spec.Role.GUARDRAIL and given:
            problems.append(
                f"{at}: only a guardrail has min, max or nonInferiorityMargin: set role: guardrail"
            )
        if metric.role is spec.Role.OBJECTIVE and metric.source == spec.TOP1_AGREEMENT:
            problems.append(
                f"{at}: agreement with the baseline cannot be the objective, the baseline always wins it"
            )
        if is_latency and metric.role is spec.Role.GUARDRAIL and metric.max is None:
            problems.append(f"{at}: a latency guardrail has a max in milliseconds")
        if metric.source == spec.TOP1_AGREEMENT and metric.role is spec.Role.GUARDRAIL and metric.min is None:
            problems.append(f"{at}: an agreement guardrail has a min, for example min: 0.95")
        problems += _limit_problems(at, metric)
    problems += _source_problems(body)
    objectives = [metric.name for metric in body.metrics if metric.role is spec.Role.OBJECTIVE]
    if len(objectives) > 1:
        problems.append(
            f"spec.metrics: {len(objectives)} objectives ({', '.join(objectives)}), at most one is allowed"
        )
    return problems


def _limit_problems(at: str, metric: MetricDocument) -> list[str]:
    """Limits that no outcome can miss, or none can keep: the tests need room on both sides."""
    if metric.source in (spec.LATENCY, spec.COMPUTE):
        if metric.max is not None and not LATENCY_SCALE.low < metric.max <= LATENCY_SCALE.borders[-1]:
            return [
                f"{at}: max {metric.max:g} must be above {LATENCY_SCALE.low:g} and at most {LATENCY_SCALE.borders[-1]:.0f} milliseconds"
            ]
        return []
    low, high = metric.range or (0.0, 1.0)
    problems = [
        f"{at}: {name} {limit:g} must be strictly between {low:g} and {high:g}, where the values lie"
        for name, limit in (("min", metric.min), ("max", metric.max))
        if limit is not None and not low < limit < high
    ]
    margin = metric.non_inferiority_margin
    if margin is not None and low < high and margin > (high - low) / 2:
        problems.append(
            f"{at}: nonInferiorityMargin {margin:g} must be at most half of the range from {low:g} to {high:g}"
        )
    return problems


def _source_problems(body: SpecDocument) -> list[str]:
    """Feedback of one name is counted once, so every metric must read it alike."""
    problems: list[str] = []
    first: dict[str, tuple[str, tuple[float, float], bool]] = {}
    for index, metric in enumerate(body.metrics):
        if not metric.source.startswith(spec.FEEDBACK_PREFIX):
            continue
        read = (metric.range or (0.0, 1.0), _metric(metric).lower_is_better)
        known = first.setdefault(metric.source, (metric.name, *read))
        if known[1:] != read:
            problems.append(
                f"spec.metrics[{index}] ({metric.name}): {metric.source} has another range or direction than in {known[0]}: give both the same"
            )
    return problems


def _is_mirrored(metric: MetricDocument) -> bool:
    """Whether compared replies say something about the metric."""
    is_feedback = metric.source.startswith(spec.FEEDBACK_PREFIX)
    is_limited = metric.min is not None or metric.max is not None
    return metric.source == spec.TOP1_AGREEMENT or (
        is_feedback and not is_limited and (metric.range or (0.0, 1.0)) == (0.0, 1.0)
    )


def _step_problems(body: SpecDocument) -> list[str]:
    problems: list[str] = []
    guardrails = {metric.name for metric in body.metrics if metric.role is spec.Role.GUARDRAIL}
    objectives = any(metric.role is spec.Role.OBJECTIVE for metric in body.metrics)
    mirrored = any(
        metric.source == spec.TOP1_AGREEMENT and metric.role is spec.Role.GUARDRAIL for metric in body.metrics
    )
    for index, step in enumerate(body.steps):
        at = f"spec.steps[{index}]"
        chosen = step.model_fields_set
        if len(chosen) != 1:
            problems.append(
                f"{at}: a step has exactly one key, {len(chosen)} given ({', '.join(sorted(chosen))}): split it"
            )
            continue
        if step.mirror is not None:
            problems += [
                f"{at}.mirror.until.{name}: no guardrail of that name, there are {', '.join(sorted(guardrails)) or 'none'}"
                for name in step.mirror.until
                if name not in guardrails
            ]
            problems += [
                f"{at}.mirror.until.{metric.name}: mirrored requests do not decide it, leave it to an analysis or bandit step"
                for metric in body.metrics
                if metric.name in step.mirror.until and metric.name in guardrails and not _is_mirrored(metric)
            ]
        if step.set_weight is not None and step.set_weight * len(body.candidates) > 100:
            problems.append(
                f"{at}.setWeight: {step.set_weight:g} % for each of {len(body.candidates)} candidates is over 100 %"
            )
        if step.bandit is not None and not objectives:
            problems.append(f"{at}.bandit: needs a metric with role: objective to choose by")
        if step.bandit is not None:
            floors = step.bandit.min_prob * len(body.candidates) + 0.1
            if floors > 1.0:
                problems.append(
                    f"{at}.bandit.minProb: {step.bandit.min_prob:g} for each of {len(body.candidates)} candidates and 0.1 for the baseline sum to {floors:g}, at most 1 is possible"
                )
            if step.bandit.min_prob * 100 > step.bandit.max_weight:
                problems.append(
                    f"{at}.bandit.minProb: {step.bandit.min_prob:g} is over maxWeight {step.bandit.max_weight:g} %"
                )
        if step.promote is not None:
            if not guardrails and not objectives:
                problems.append(
                    f"{at}.promote: nothing would have to be proven: add a metric with role: guardrail or role: objective"
                )
            if index != len(body.steps) - 1:
                problems.append(f"{at}.promote: must be the last step")
            if list(step.promote.steps) != sorted(step.promote.steps) or step.promote.steps[-1:] != (100,):
                problems.append(f"{at}.promote.steps: {list(step.promote.steps)} must rise and end with 100")
    if mirrored and not any(step.mirror is not None for step in body.steps):
        problems.append(
            "spec.steps: an agreement guardrail is decided on mirrored requests: add a mirror step"
        )
    return problems


def _metric(metric: MetricDocument) -> spec.Metric:
    direction = metric.direction
    if direction is None:
        lower = metric.source in (spec.LATENCY, spec.COMPUTE, spec.ERROR) or metric.max is not None
        direction = spec.Direction.MIN if lower else spec.Direction.MAX
    low, high = metric.range or (0.0, 1.0)
    return spec.Metric(
        name=metric.name,
        source=metric.source,
        role=metric.role,
        statistic=metric.statistic,
        direction=direction,
        minimum=metric.min,
        maximum=metric.max,
        non_inferiority_margin=metric.non_inferiority_margin,
        low=low,
        high=high,
    )


def _step(step: StepDocument) -> spec.Step:
    if step.mirror is not None:
        return spec.MirrorStep(
            fraction=step.mirror.percent / 100,
            until_decided=tuple(step.mirror.until),
            max_duration_s=step.mirror.max_duration,
            noise_floor=step.mirror.noise_floor / 100,
        )
    if step.set_weight is not None:
        return spec.SetWeightStep(weight=step.set_weight / 100)
    if step.analysis is not None:
        return spec.AnalysisStep(
            min_duration_s=step.analysis.min_duration, max_duration_s=step.analysis.max_duration
        )
    if step.bandit is not None:
        return spec.BanditStep(
            algorithm=step.bandit.algorithm,
            max_weight=step.bandit.max_weight / 100,
            min_prob=step.bandit.min_prob,
            update_period_s=step.bandit.update_period,
            min_duration_s=step.bandit.min_duration,
            max_duration_s=step.bandit.max_duration,
            tolerance=step.bandit.tolerance / 100,
        )
    if step.promote is not None:
        return spec.PromoteStep(
            weights=tuple(percent / 100 for percent in step.promote.steps),
            interval_s=step.promote.interval,
            bake_s=step.promote.bake,
        )
    return spec.PauseStep(duration_s=step.pause.duration if step.pause else None)
