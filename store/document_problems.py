"""What is wrong with an experiment document whose fields are right: rules between them, each problem with its path."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from anabranch.bandit import spec
from anabranch.bandit.scales import LATENCY_SCALE
from anabranch.store.document_schema import MetricDocument, SpecDocument
from anabranch.store.hold_back import held_back, relative_guardrails
from anabranch.store.label_windows import label_window_problems, label_window_warnings
from anabranch.store.prices import price_problems
from anabranch.store.webhook_problems import webhook_problems

_ROOM = 1e-6  # Share of the range on either side of a limit: a rarer event is not seen in any traffic.
_BY_METRICS = re.compile(r"^spec\.steps\[\d+\]\.(mirror\.until\.|bandit: needs|promote: nothing)")
_FIDELITY = (spec.TOP1_AGREEMENT, spec.KL)
_SOURCES = (*spec.LONG_TAILED, spec.ERROR, *_FIDELITY)


def problems_of(body: SpecDocument) -> list[str]:
    """Every problem, in the order of the document's parts."""
    return [
        *_metric_problems(body),
        *_arm_problems(body),
        *price_problems(body),
        *_step_problems(body),
        *webhook_problems(body),
    ]


def problems_beside(document: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Problems between fields in a document that has wrong fields too, of the parts that are right themselves.

    A wrong metric or step is taken out and what would follow from that is left out; where anything else is wrong,
    nothing can be said.
    """
    places = {item["loc"][:3] for item in error.errors()}
    if any(place[:2] not in {("spec", "metrics"), ("spec", "steps")} or len(place) < 3 for place in places):
        return []
    found = sorted({(str(part), int(index)) for _, part, index in places})
    body: dict[str, Any] = copy.deepcopy(dict(document["spec"]))
    for part, index in found:
        given = body[part][index]
        name = given.get("name") if isinstance(given, dict) else None
        body[part][index] = _neutral(part, name)
    try:
        rest = SpecDocument.model_validate(body)
    except ValidationError:
        return []
    wrong = tuple(f"spec.{part}[{index}]" for part, index in found)
    # What is said of all steps, or of steps by the metrics' names and roles, may be wrong without what was taken out.
    return [
        problem
        for problem in problems_of(rest)
        if not problem.startswith((*wrong, "spec.steps:", "spec.metrics:"))
        and not ("metrics" in dict(found) and _BY_METRICS.search(problem))
    ]


def _neutral(part: str, name: object) -> dict[str, Any]:
    """A step or a metric that stands in for a wrong one."""
    if part == "steps":
        return {"pause": {}}
    known = name if isinstance(name, str) else "unnamed"
    return {"name": known, "source": spec.ERROR, "role": spec.Role.SIGNAL}


def warnings_of(body: SpecDocument) -> list[str]:
    """What is allowed and probably not meant, each with what to do."""
    found = []
    for index, step in enumerate(body.steps):
        relative = relative_guardrails(body)
        if step.promote is not None and relative and held_back(step.promote, body) == 0.0:
            why = "holdBack is 0" if step.promote.hold_back is not None else "there is no bake"
            found.append(
                f"spec.steps[{index}].promote: {', '.join(relative)} cannot be compared once the winner has all traffic "
                f"({why}): bake with a holdBack of a few per cent to go on watching"
            )
    return [*found, *label_window_warnings(body)]


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
        is_long_tailed = metric.source in spec.LONG_TAILED
        limits = [metric.min, metric.max, metric.non_inferiority_margin]
        given = sum(limit is not None for limit in limits)
        if names.index(metric.name) != index:
            problems.append(f"{at}: the name is used twice, rename one")
        if metric.source not in _SOURCES and not re.fullmatch(r"feedback\.[a-z0-9_]{1,64}", metric.source):
            problems.append(
                f"{at}: source {metric.source!r} is not measured: allowed are {', '.join(_SOURCES)} and feedback.<name>"
            )
        if metric.statistic is not spec.Statistic.MEAN and not is_long_tailed:
            problems.append(
                f"{at}: statistic {metric.statistic} needs a latency or a cost, {metric.source} has a mean only"
            )
        if metric.statistic is spec.Statistic.MEAN and is_long_tailed and metric.role is not spec.Role.SIGNAL:
            problems.append(
                f"{at}: a {'cost' if metric.source == spec.COST else 'latency'} is judged by a quantile: set statistic to p50, p90, p95 or p99"
            )
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
        if metric.role is spec.Role.OBJECTIVE and metric.source in _FIDELITY:
            problems.append(
                f"{at}: what copies say of a candidate cannot be the objective, the baseline always wins it"
            )
        if is_long_tailed and metric.role is spec.Role.GUARDRAIL and metric.max is None:
            problems.append(f"{at}: a latency guardrail has a max in milliseconds")
        if metric.source == spec.TOP1_AGREEMENT and metric.role is spec.Role.GUARDRAIL and metric.min is None:
            problems.append(f"{at}: an agreement guardrail has a min, for example min: 0.95")
        if metric.source == spec.KL and metric.role is spec.Role.GUARDRAIL and metric.max is None:
            problems.append(f"{at}: a divergence guardrail has a max in nats, for example max: 0.05")
        problems += label_window_problems(at, metric)
        if metric.dry_run and metric.role is not spec.Role.GUARDRAIL:
            problems.append(
                f"{at}: dryRun is for a guardrail; a {metric.role} removes nobody: set role: guardrail or remove it"
            )
        if metric.planned_benefit is not None and metric.role is not spec.Role.OBJECTIVE:
            problems.append(f"{at}: only an objective has a plannedBenefit: set role: objective")
        if metric.planned_benefit is not None and metric.planned_benefit >= (
            1.0 if is_long_tailed else metric.values[1] - metric.values[0]
        ):
            problems.append(
                f"{at}: plannedBenefit {metric.planned_benefit:g} is as much as there is: 0.1 is 10 % of a latency"
            )
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
    if metric.source == spec.COST:
        return []
    if metric.source in spec.DURATIONS:
        if metric.max is not None and not LATENCY_SCALE.low < metric.max <= LATENCY_SCALE.borders[-1]:
            return [
                f"{at}: max {metric.max:g} must be above {LATENCY_SCALE.low:g} and at most {LATENCY_SCALE.borders[-1]:.0f} milliseconds"
            ]
        return []
    low, high = metric.values
    room = _ROOM * (high - low)
    problems = [
        f"{at}: {name} {limit:g} must be strictly between {low:g} and {high:g}, where the values lie"
        for name, limit in (("min", metric.min), ("max", metric.max))
        if limit is not None and not low + room <= limit <= high - room
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
    first: dict[str, tuple[str, tuple[float, float], bool, float | None]] = {}
    for index, metric in enumerate(body.metrics):
        if not metric.source.startswith(spec.FEEDBACK_PREFIX):
            continue
        read = (metric.values, metric.better is spec.Direction.MIN, metric.label_window)
        known = first.setdefault(metric.source, (metric.name, *read))
        if known[1:] != read:
            what = "range or direction" if known[1:3] != read[:2] else "labelWindow"
            problems.append(
                f"spec.metrics[{index}] ({metric.name}): {metric.source} has another {what} than in {known[0]}: give both the same"
            )
    return problems


def _is_mirrored(metric: MetricDocument) -> bool:
    """Whether compared replies say something about the metric."""
    is_feedback = metric.source.startswith(spec.FEEDBACK_PREFIX)
    is_limited = metric.min is not None or metric.max is not None
    return metric.source in _FIDELITY or (is_feedback and not is_limited and metric.values == (0.0, 1.0))


def _step_problems(body: SpecDocument) -> list[str]:
    problems: list[str] = []
    guardrails = {
        metric.name for metric in body.metrics if metric.role is spec.Role.GUARDRAIL and not metric.dry_run
    }
    objectives = any(metric.role is spec.Role.OBJECTIVE for metric in body.metrics)
    mirrored = any(
        metric.source in _FIDELITY and metric.role is spec.Role.GUARDRAIL for metric in body.metrics
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
        if step.bandit is not None and not step.bandit.memory > 0.0:
            problems.append(f"{at}.bandit.memory: must be above 0: 24h remembers a day")
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
