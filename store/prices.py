"""What an hour of each variant's hardware costs, in a document: as written, and completed with what is known elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anabranch.bandit import spec
from anabranch.bandit.costs import cost_scale
from anabranch.store.document_schema import SpecDocument


def asks_cost(body: SpecDocument) -> bool:
    """Whether a metric is a cost."""
    return any(metric.source == spec.COST for metric in body.metrics)


def hourly_prices(body: SpecDocument) -> tuple[float | None, ...]:
    """The price of every arm, None where none is given; empty where nobody asks for costs."""
    if not asks_cost(body):
        return ()
    return tuple(body.hourly_prices.get(name) for name in (body.baseline, *body.candidates))


def completed(document: Mapping[str, Any], *known: Mapping[str, float]) -> dict[str, Any]:
    """A document with the prices that it asks for and does not give.

    They become part of it: a price that changes later changes neither the evidence nor the decisions.

    Args:
        document: One that can be parsed.
        known: Prices by variant; the first that knows one says it.
    """
    body = SpecDocument.model_validate(document["spec"])
    if not asks_cost(body):
        return dict(document)
    prices = dict(body.hourly_prices)
    for name in (body.baseline, *body.candidates):
        found = next((each[name] for each in known if name in each), None)
        if name not in prices and found is not None:
            prices[name] = found
    return {**document, "spec": {**document["spec"], "hourlyPrices": prices}} if prices else dict(document)


def price_problems(body: SpecDocument) -> list[str]:
    """Prices of nobody, and limits that no cost can miss or keep."""
    arms = (body.baseline, *body.candidates)
    problems = [
        f"spec.hourlyPrices.{name}: no variant of the experiment, there are {', '.join(arms)}"
        for name in body.hourly_prices
        if name not in arms
    ]
    if body.hourly_prices and not asks_cost(body):
        problems.append(
            f"spec.hourlyPrices: no metric asks for costs: add one with source: {spec.COST}, or leave the prices out"
        )
    price = body.hourly_prices.get(body.baseline)
    if price is None:
        return problems
    scale = cost_scale(price)
    return problems + [
        f"spec.metrics[{index}] ({metric.name}): max {metric.max:g} must be above {scale.low:.3g} and at most "
        f"{scale.borders[-1]:.3g}, which is 0.01 ms to 100 s of the baseline's hardware for each request"
        for index, metric in enumerate(body.metrics)
        if metric.source == spec.COST
        and metric.max is not None
        and not scale.low < metric.max <= scale.borders[-1]
    ]
