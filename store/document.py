"""The experiment document: the YAML or JSON people write, checked in whole, turned into a `spec.Experiment`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from anabranch.bandit import spec
from anabranch.store.document_problems import problems_of
from anabranch.store.document_schema import ExperimentDocument, MetricDocument, StepDocument, Strict


class InvalidDocument(ValueError):
    """The experiment document has problems; `problems` lists every one with its path and reason."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


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
    if problems := problems_of(parsed.spec):
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
        futility_beta=parsed.spec.futility_beta,
        min_age_s=parsed.spec.min_age,
        exposure_budget=parsed.spec.exposure_budget,
    )


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _aliases(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _problem(item: Any) -> str:
    path = _path(item["loc"])
    if item["type"] == "extra_forbidden":
        known = sorted({name for kind in Strict.__subclasses__() for name in _aliases(kind)})
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


def _metric(metric: MetricDocument) -> spec.Metric:
    low, high = metric.values
    return spec.Metric(
        name=metric.name,
        source=metric.source,
        role=metric.role,
        statistic=metric.statistic,
        direction=metric.better,
        minimum=metric.min,
        maximum=metric.max,
        non_inferiority_margin=metric.non_inferiority_margin,
        planned_benefit=metric.planned_benefit,
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
            memory_s=step.bandit.memory,
        )
    if step.promote is not None:
        return spec.PromoteStep(
            weights=tuple(percent / 100 for percent in step.promote.steps),
            interval_s=step.promote.interval,
            bake_s=step.promote.bake,
            hold_back=step.promote.hold_back / 100,
        )
    return spec.PauseStep(duration_s=step.pause.duration if step.pause else None)
