"""A real server, scraped while it serves, splits, copies, fails, loses a worker and is stopped."""

import contextlib
import urllib.request
from collections.abc import Callable
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from anabranch.store.sql import open_store

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]


def scrape(served: Any) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels in the order of their names."""
    with urllib.request.urlopen(served.metrics, timeout=30) as response:
        text = response.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found: dict[tuple[str, ...], float], name: str) -> dict[tuple[str, ...], float]:
    return {labels[1:]: value for labels, value in found.items() if labels[0] == f"anabranch_{name}"}


def test_a_scrape_tells_what_clients_saw_and_where_the_experiment_stands(
    serve: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = serve(**{"metrics-port": 0, "workers": 2, "log-format": "json"})
    assert served.metrics.startswith("http://127.0.0.1:")
    client = served.client()
    replies = [client.infer(number) for number in range(5)]
    assert {reply.variant for reply in replies} == {"wide"}
    assert not client.infer(0, model_version="stranger").is_ok
    served.apply(experiment("held", ["plain", "raising"], [{"setWeight": 30}, {"pause": {}}]))

    def is_split() -> bool:
        replies.append(client.infer(0))
        return bool(replies[-1].assignment_id)

    wait_until(is_split, "the split is in force")
    with served.traffic(clients=4) as traffic:
        wait_until(lambda: len(traffic.answered()) >= 300, "traffic runs")
    replies += traffic.replies
    assert all(reply.is_ok for reply in replies)

    def counted() -> float:
        return sum(of(scrape(served), "requests_total").values())

    wait_until(lambda: counted() >= len(replies), "every request is counted")
    assert counted() == len(replies), "and none twice"
    found = scrape(served)
    requests = of(found, "requests_total")
    assert requests["digits", "OK", "plain"] == sum(reply.variant == "plain" for reply in replies)
    failed = requests["digits", "INTERNAL", "raising"]
    assert failed == of(found, "masked_requests_total")["digits", "raising"] > 0
    durations = of(found, "request_duration_seconds_count")
    assert durations["digits", "plain"] == requests["digits", "OK", "plain"]
    assert of(found, "router_duration_seconds_sum")["digits", "plain"] > 0
    assert of(found, "refused_requests_total")["NOT_FOUND",] == 1
    assert of(found, "workers_serving")[()] == 2
    assert of(found, "stale_workers")[()] == 0
    assert of(found, "experiment_weight_ratio")["held", "digits", "plain"] == 0.3
    assert (
        of(found, "experiment_phase")["held", "digits", "Progressing"]
        + of(found, "experiment_phase")["held", "digits", "Paused"]
        == 1
    )
    assert of(found, "experiment_decisions_total")["held", "digits"] >= 1
    assert of(found, "journal_records_total")[()] > 0
    assert of(found, "ingestion_lag_seconds")[()] < 30
    assert of(found, "store_statement_duration_seconds_count")[()] > 0

    served.workers()[0].kill()
    wait_until(
        lambda: (
            of(scrape(served), "worker_restarts_total")[()] == 1
            and of(scrape(served), "workers_serving")[()] == 2
        ),
        "the worker is replaced",
    )
    after = of(scrape(served), "requests_total")
    assert all(after[labels] >= value for labels, value in requests.items()), "a counter never falls"
    assert served.stop() == 0
    # ONNX Runtime writes its own errors past every logger.
    written = [line for line in served.log.read_text().splitlines() if ":onnxruntime:" not in line]
    lines = [orjson.loads(line) for line in written]
    assert {line["role"] for line in lines} == {"supervisor", "worker"}
    assert {line["experiment"] for line in lines if "experiment" in line} == {"held"}
    with contextlib.suppress(OSError):
        urllib.request.urlopen(served.metrics, timeout=5)
        raise AssertionError("the port is still open")


def test_requests_are_counted_by_class_and_forecast_from_the_store(serve: Serve, wait_until: Wait) -> None:
    served = serve(**{"metrics-port": 0, "class-target": "batch=60000", "forecast": True})
    client = served.client()
    for priority in ("batch", "batch", "realtime"):
        assert client.infer(metadata={"x-priority": priority}).is_ok
    assert client.infer().is_ok
    refused = client.infer(metadata={"x-priority": "urgent"})
    assert "there are realtime, interactive, batch" in refused.detail
    wait_until(
        lambda: sum(of(scrape(served), "class_duration_seconds_count").values()) == 4, "all are counted"
    )
    found = scrape(served)
    assert of(found, "class_duration_seconds_count") == {
        ("batch", "digits"): 2,
        ("interactive", "digits"): 1,
        ("realtime", "digits"): 1,
    }
    assert of(found, "class_within_target_total")["batch", "digits"] == 2
    assert of(found, "class_target_seconds") == {("batch",): 60, ("interactive",): 0.2, ("realtime",): 0.05}
    # Without an hour of history there is no forecast, and that is no failure.
    wait_until(lambda: of(scrape(served), "forecast_timestamp_seconds"), "the process has answered")
    assert of(scrape(served), "forecast_failures_total") == {(): 0}
    assert of(scrape(served), "forecast_requests_per_second") == {}
    assert served.stop() == 0
    store = open_store(served.store_url)
    kept = store.volumes.load(0)
    catalog = store.ledger.catalog()
    store.close()
    assert {(each.model, each.level): each.requests for each in kept} == {
        ("digits", "batch"): 2,
        ("digits", "interactive"): 1,
        ("digits", "realtime"): 1,
    }
    assert catalog is not None
    assert catalog.class_targets_ms["batch"] == 60_000
