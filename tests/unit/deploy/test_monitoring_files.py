"""The files for Prometheus and Grafana ask for what the code exposes, and for nothing else."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from anabranch.router.metrics.catalogue import CATALOGUE, Kind, Metric

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = ("recording.rules.yml", "alerts.rules.yml")
NAME = re.compile(r"\banabranch_\w+|\b[a-z_]+:anabranch_\w+:\w+")
SELECTOR = re.compile(r"(\banabranch_\w+)\{([^}]*)\}")


def rules(name: str) -> list[dict[str, Any]]:
    document = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "anabranch.json").read_text())
    return loaded


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for name in RULES:
        yield from (rule["expr"] for rule in rules(name))


def exposed() -> dict[str, Metric]:
    """By the names of their series."""
    found: dict[str, Metric] = {}
    for metric in CATALOGUE:
        endings = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        found |= {metric.name + ending: metric for ending in endings}
    return found


def test_every_series_that_is_asked_for_exists() -> None:
    known = exposed().keys() | {rule["record"] for rule in rules(RULES[0])}
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(asked) > 40
    assert asked - known == set()


def test_every_label_that_is_matched_exists() -> None:
    known = exposed()
    for expression in expressions():
        for name, selector in SELECTOR.findall(expression):
            labels = set(re.findall(r"(\w+)\s*[=!]~?\"|(\w+)=~", selector))
            names = {first or second for first, second in labels}
            assert names <= {*known[name].labels, "le", "job", "instance"}, f"{name}{{{selector}}}"


def test_every_metric_is_looked_at_somewhere_or_left_out_on_purpose() -> None:
    looked_at = {
        exposed()[name].name for text in expressions() for name in NAME.findall(text) if name in exposed()
    }
    left_out = {metric.name for metric in CATALOGUE} - looked_at
    assert left_out == {
        "anabranch_build_info",
        # Where Envoy is the data plane.
        "anabranch_envoy_log_entries_total",
        "anabranch_envoy_log_missing_entries",
        "anabranch_experiment_epoch",
        "anabranch_experiment_live",
        "anabranch_experiment_masked_total",
        "anabranch_experiment_mirror_ratio",
        "anabranch_experiment_requests_total",
        "anabranch_experiment_samples",
        "anabranch_experiment_started_timestamp_seconds",
        "anabranch_experiment_units_total",
        "anabranch_experiment_winner",
        # Which path answered: for who looks into a worker's time.
        "anabranch_express_handed_over_requests_total",
        "anabranch_express_requests_total",
        "anabranch_forecast_failures_total",
        "anabranch_forecast_timestamp_seconds",
        "anabranch_ingested_strangers_total",
        "anabranch_journal_bytes_total",
        "anabranch_snapshot_version",
        "anabranch_wire_calls_total",
        "anabranch_wire_connections_total",
        "anabranch_wire_problems_total",
    }, "show it in deploy/grafana/dashboard.py, or name it here"


def test_every_alert_says_what_happened_and_what_to_do_and_is_shown_to_fire() -> None:
    fired = (DEPLOY / "prometheus" / "alerts.test.yml").read_text()
    for rule in rules(RULES[1]):
        assert rule["labels"]["severity"] in ("page", "ticket", "info"), rule["alert"]
        assert {"summary", "description"} <= rule["annotations"].keys(), rule["alert"]
        assert f'alertname="{rule["alert"]}"' in fired, f"{rule['alert']} is in no test of promtool"


def test_the_dashboard_is_what_its_program_writes(load_module: Callable[[Path], ModuleType]) -> None:
    written = load_module(DEPLOY / "grafana" / "dashboard.py").dashboard()
    assert dashboard() == json.loads(json.dumps(written)), "write it again: make reference"


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize(
    "path", ["provisioning/datasources/prometheus.yml", "provisioning/dashboards/anabranch.yml"]
)
def test_what_grafana_reads_at_its_start_is_yaml_of_version_1(path: str) -> None:
    assert yaml.safe_load((DEPLOY / "grafana" / path).read_text())["apiVersion"] == 1
