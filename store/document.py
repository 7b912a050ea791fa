"""The experiment document: the YAML or JSON people write, checked in whole, turned into a `spec.Experiment`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from anabranch.bandit import hooks, spec
from anabranch.store.bounded_yaml import UnreadableYaml, load_yaml
from anabranch.store.document_problems import problems_beside, problems_of, warnings_of
from anabranch.store.document_schema import (
    ExperimentDocument,
    GateDocument,
    MetricDocument,
    NotificationDocument,
    SpecDocument,
    StepDocument,
    Strict,
    WebhookDocument,
)
from anabranch.store.foreign_fields import why_not
from anabranch.store.hold_back import held_back
from anabranch.store.prices import hourly_prices


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
        loaded = load_yaml(text)
    except UnreadableYaml as error:
        raise InvalidDocument([str(error)]) from error
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
        found = [_problem(item) for item in error.errors()]
        raise InvalidDocument([*found, *problems_beside(document, error)]) from error
    if problems := problems_of(parsed.spec):
        raise InvalidDocument(problems)
    return spec.Experiment(
        name=parsed.metadata.name,
        model=parsed.spec.model,
        baseline=parsed.spec.baseline,
        candidates=parsed.spec.candidates,
        metrics=tuple(_metric(metric, parsed.spec) for metric in parsed.spec.metrics),
        steps=tuple(_step(step, parsed.spec) for step in parsed.spec.steps),
        unit_metadata=parsed.spec.unit.metadata if parsed.spec.unit else None,
        delta=parsed.spec.delta,
        rollback_delta=parsed.spec.rollback_delta,
        futility_beta=parsed.spec.futility_beta,
        min_age_s=parsed.spec.min_age,
        exposure_budget=parsed.spec.exposure_budget,
        mode=parsed.spec.mode,
        gates=tuple(_gate(gate) for gate in parsed.spec.gates),
        notifications=tuple(_notification(each) for each in parsed.spec.notifications),
        hourly_prices=hourly_prices(parsed.spec),
    )


def document_warnings(document: Mapping[str, Any]) -> list[str]:
    """What a sound document probably does not mean, each with its path and what to do."""
    return warnings_of(ExperimentDocument.model_validate(document).spec)


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _aliases(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _problem(item: Any) -> str:
    path = _path(item["loc"])
    if item["type"] == "extra_forbidden":
        if reason := why_not(item["loc"]):
            return f"{path}: {reason}"
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


def _metric(metric: MetricDocument, body: SpecDocument) -> spec.Metric:
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
        dry_run=metric.dry_run,
        low=low,
        high=high,
        hourly_price=body.hourly_prices.get(body.baseline) if metric.source == spec.COST else None,
        label_window_s=metric.label_window,
        unlabelled=metric.unlabelled or spec.Unlabelled.AGAINST,
    )


def _gate(gate: GateDocument) -> hooks.Gate:
    return hooks.Gate(
        name=gate.name,
        kind=hooks.GateKind(gate.type),
        webhook=_webhook(gate.webhook),
        interval_s=gate.interval,
        failure_limit=gate.failure_limit,
    )


def _notification(notification: NotificationDocument) -> hooks.Notification:
    webhook = _webhook(notification.webhook)
    assert webhook is not None
    return hooks.Notification(
        name=notification.name, webhook=webhook, format=notification.format, phases=notification.phases
    )


def _webhook(webhook: WebhookDocument | None) -> hooks.Webhook | None:
    if webhook is None:
        return None
    secret = None
    if webhook.secret is not None:
        secret = (
            hooks.Secret(place=hooks.SecretPlace.ENV, name=webhook.secret.env)
            if webhook.secret.env is not None
            else hooks.Secret(place=hooks.SecretPlace.FILE, name=webhook.secret.file or "")
        )
    return hooks.Webhook(url=webhook.url, secret=secret, timeout_s=webhook.timeout, retries=webhook.retries)


def _step(step: StepDocument, body: SpecDocument) -> spec.Step:
    if step.mirror is not None:
        return spec.MirrorStep(
            fraction=step.mirror.percent / 100,
            until_decided=tuple(step.mirror.until),
            max_duration_s=step.mirror.max_duration,
            noise_floor=step.mirror.noise_floor / 100,
        )
    if step.set_weight is not None:
        return spec.SetWeightStep(weight=step.set_weight / 100)
    if step.gate is not None:
        gate = hooks.Gate(
            name=step.gate.name,
            kind=hooks.GateKind.STEP,
            webhook=_webhook(step.gate.webhook),
            interval_s=step.gate.interval,
            failure_limit=step.gate.failure_limit,
        )
        return spec.GateStep(gate=gate, max_duration_s=step.gate.max_duration)
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
            hold_back=held_back(step.promote, body) / 100,
        )
    return spec.PauseStep(duration_s=step.pause.duration if step.pause else None)
