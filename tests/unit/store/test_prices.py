import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.costs import cost_scale
from anabranch.store.catalog_check import catalog_problems
from anabranch.store.document import InvalidDocument, parse
from anabranch.store.ingest import ingest
from anabranch.store.journal import JournalWriter
from anabranch.store.ledger_port import Catalog
from anabranch.store.memory import MemoryStore
from anabranch.store.prices import completed
from anabranch.store.records import Flag, Routed

PRICES = {"base": 2.0, "a": 0.5, "b": 4.0}


@pytest.fixture(scope="module")
def costly(small_document: dict[str, Any]) -> dict[str, Any]:
    """A document that asks for costs and gives no prices."""
    cost = {"name": "cost", "source": "cost_per_1k", "role": "guardrail", "statistic": "p95", "max": 0.05}
    spec = small_document["spec"]
    return small_document | {"spec": spec | {"metrics": [*spec["metrics"], cost]}}


def _with(document: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return document | {"spec": document["spec"] | fields}


def test_prices_become_part_of_the_document_and_the_first_that_knows_one_says_it(
    costly: dict[str, Any],
) -> None:
    given = _with(costly, hourlyPrices={"a": 9.0})
    whole = completed(given, {"base": 7.0}, PRICES)
    assert whole["spec"]["hourlyPrices"] == {"a": 9.0, "base": 7.0, "b": 4.0}
    assert given["spec"]["hourlyPrices"] == {"a": 9.0}
    experiment = parse(whole)
    assert experiment.hourly_prices == (7.0, 9.0, 4.0)
    assert experiment.metrics[-1].hourly_price == 7.0
    assert json.loads(json.dumps(whole)) == whole
    assert completed(whole, PRICES) == whole


def test_a_document_that_asks_for_no_cost_stays_as_it_is(small_document: dict[str, Any]) -> None:
    assert completed(small_document, PRICES) == small_document
    assert parse(small_document).hourly_prices == ()


def test_variants_without_a_price_are_refused_before_they_begin(costly: dict[str, Any]) -> None:
    catalog = Catalog(variants={"m": dict.fromkeys(PRICES, "x → y")}, webhook_hosts=(), at_s=1.0)
    [problem] = catalog_problems(parse(completed(costly, {"base": 2.0, "b": 4.0})), catalog)
    assert "cost_per_1k is asked for, and a has no price of an hour" in problem
    assert "anabranch variants price m a NUMBER" in problem
    assert catalog_problems(parse(completed(costly, PRICES)), catalog) == []


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"hourlyPrices": {**PRICES, "a": 0.0}}, "spec.hourlyPrices.a: "),
        ({"hourlyPrices": {**PRICES, "c": 1.0}}, "spec.hourlyPrices.c: no variant of the experiment"),
        ({"hourlyPrices": {**PRICES, "base": 1e-4}}, "max 0.05 must be above"),
    ],
)
def test_wrong_prices_are_refused_by_name(
    costly: dict[str, Any], fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidDocument) as refused:
        parse(_with(costly, **fields))
    assert any(problem in each for each in refused.value.problems), refused.value.problems


def test_prices_that_nobody_asks_for_are_refused(small_document: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument, match="no metric asks for costs"):
        parse(_with(small_document, hourlyPrices=PRICES))


def test_answered_requests_are_counted_at_their_share_of_the_batch_and_their_arms_price(
    tmp_path: Path, costly: dict[str, Any]
) -> None:
    store = MemoryStore()
    store.apply(completed(costly, PRICES), "ada", 0.0)
    usual = Routed(
        at_s=1.0,
        experiment=1,
        epoch=1,
        arm=0,
        flags=Flag.EVIDENCE,
        status=0,
        latency_ms=10.0,
        queue_ms=1.0,
        compute_ms=9.0,
        batch_rows=1,
        propensity=0.5,
        sequence=1,
        unit=bytes(16),
    )
    writer = JournalWriter(tmp_path, 1)
    writer.append(usual)
    writer.append(replace(usual, sequence=2, batch_rows=9))
    writer.append(replace(usual, sequence=3, arm=1))
    # What failed, and what is no evidence, counts nowhere.
    writer.append(replace(usual, sequence=4, status=14))
    writer.append(replace(usual, sequence=5, flags=Flag(0)))
    writer.close()
    ingest(store, tmp_path)
    scale = cost_scale(2.0)
    told = {cell.variant: cell.metrics["cost_per_1k"] for cell in store.load_evidence("exp", 0).cells}
    assert told == {
        "base": {scale.bin_of(9.0 * 2.0 / 3_600): 1, scale.bin_of(1.0 * 2.0 / 3_600): 1},
        "a": {scale.bin_of(9.0 * 0.5 / 3_600): 1},
    }
