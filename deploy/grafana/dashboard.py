"""The Grafana dashboard, written as data: `python deploy/grafana/dashboard.py > deploy/grafana/dashboards/anabranch.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${source}"}
MODEL = 'model=~"$model"'
PERCENT = "percentunit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel: a title that says what one sees, queries with their legends, and a unit."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    about: str = ""
    limit: float | None = None
    is_stacked: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def quantile(metric: str, share: float, by: str = "model, variant") -> str:
    """A quantile of a histogram over every server."""
    return (
        f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{{{MODEL}}}[$__rate_interval])))"
    )


def mean(metric: str) -> str:
    """The mean of a histogram by variant."""
    return (
        f"sum by (model, variant) (rate({metric}_sum{{{MODEL}}}[$__rate_interval])) / "
        f"sum by (model, variant) (rate({metric}_count{{{MODEL}}}[$__rate_interval]))"
    )


def rate(metric: str, by: str = "", match: str = "") -> str:
    """A counter's rate over every server."""
    grouped = f"sum by ({by}) " if by else "sum "
    return f"{grouped}(rate({metric}{{{match}}}[$__rate_interval]))"


def shown(metric: str, by: str, match: str = "") -> str:
    """A gauge of experiments, which every server tells alike."""
    return f"max by ({by}) ({metric}{{{', '.join(part for part in (MODEL, match) if part)}}})"


VARIANT = "{{model}} {{variant}}"
DURATION = "anabranch_request_duration_seconds"
EXPERIMENT = "anabranch_experiment"
ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Headline",
        (
            Panel(
                title="p99 by model (SLO 50 ms)",
                queries=[(quantile(DURATION, 0.99, "model"), "{{model}}")],
                unit="s",
                kind="stat",
                width=6,
                height=5,
                limit=0.05,
            ),
            Panel(
                title="Requests a second",
                queries=[(rate("anabranch_requests_total", "model", MODEL), "{{model}}")],
                unit="reqps",
                kind="stat",
                width=5,
                height=5,
            ),
            Panel(
                title="Requests that failed for clients",
                queries=[(f"model:anabranch_client_failures:ratio_rate5m{{{MODEL}}}", "{{model}}")],
                unit=PERCENT,
                kind="stat",
                width=5,
                height=5,
                limit=0.01,
                about="Failures of a candidate that the baseline answered are not among them.",
            ),
            Panel(
                title="Experiments going on",
                queries=[
                    (
                        'count(max by (experiment) (anabranch_experiment_phase{phase=~"Progressing|Paused|Promoting"} == 1)) or vector(0)',
                        "",
                    )
                ],
                kind="stat",
                width=4,
                height=5,
            ),
            Panel(
                title="Decisions in a day",
                queries=[
                    ("sum(max by (experiment) (increase(anabranch_experiment_decisions_total[1d])))", "")
                ],
                kind="stat",
                width=4,
                height=5,
            ),
        ),
    ),
    (
        "Priorities and forecast",
        (
            Panel(
                title="Answered within the class's target",
                queries=[
                    (
                        f"{rate('anabranch_class_within_target_total', 'model, class', MODEL)} / "
                        f"{rate('anabranch_class_duration_seconds_count', 'model, class', MODEL)}",
                        "{{model}} {{class}}",
                    )
                ],
                unit=PERCENT,
                about="99 of 100 is the aim: the target is a p99.",
            ),
            Panel(
                title="p99 by class, and its target",
                queries=[
                    (quantile("anabranch_class_duration_seconds", 0.99, "class"), "{{class}}"),
                    ("max by (class) (anabranch_class_target_seconds)", "{{class}} target"),
                ],
                unit="s",
            ),
            Panel(
                title="Requests a second, and in the next 15 minutes",
                queries=[
                    (rate("anabranch_class_duration_seconds_count", "model", MODEL), "{{model}} now"),
                    (
                        f"sum by (model) (max by (model, class) (anabranch_forecast_requests_per_second{{{MODEL}}}))",
                        "{{model}} expected",
                    ),
                    (
                        f"sum by (model) (max by (model, class) (anabranch_forecast_requests_per_second_high{{{MODEL}}}))",
                        "{{model}} at most, in nine of ten cases",
                    ),
                ],
                unit="reqps",
            ),
        ),
    ),
    (
        "Traffic",
        (
            Panel(
                title="Share of the traffic by variant",
                queries=[(rate("anabranch_requests_total", "model, variant", MODEL), VARIANT)],
                unit="reqps",
                is_stacked=True,
            ),
            Panel(
                title="Weights of the experiment",
                queries=[
                    (shown(f"{EXPERIMENT}_weight_ratio", "experiment, variant"), "{{experiment}} {{variant}}")
                ],
                unit=PERCENT,
                is_stacked=True,
            ),
            Panel(
                title="Waiting and running requests",
                queries=[
                    (f"sum by (model, variant) (anabranch_queued_requests{{{MODEL}}})", f"{VARIANT} waiting"),
                    (
                        f"sum by (model, variant) (anabranch_running_requests{{{MODEL}}})",
                        f"{VARIANT} running",
                    ),
                ],
            ),
        ),
    ),
    (
        "Latency",
        (
            Panel(title="p50 by variant", queries=[(quantile(DURATION, 0.5), VARIANT)], unit="s"),
            Panel(title="p95 by variant", queries=[(quantile(DURATION, 0.95), VARIANT)], unit="s"),
            Panel(
                title="p99 by variant", queries=[(quantile(DURATION, 0.99), VARIANT)], unit="s", limit=0.05
            ),
            Panel(
                title="Where the time goes: queue",
                queries=[(mean("anabranch_queue_duration_seconds"), VARIANT)],
                unit="s",
                about="A candidate with little traffic waits less and runs in smaller batches: compare computing.",
            ),
            Panel(
                title="Where the time goes: computing",
                queries=[(mean("anabranch_compute_duration_seconds"), VARIANT)],
                unit="s",
            ),
            Panel(
                title="Where the time goes: the router",
                queries=[(mean("anabranch_router_duration_seconds"), VARIANT)],
                unit="s",
            ),
            Panel(
                title="Rows a batch",
                queries=[
                    (mean("anabranch_batch_rows"), f"{VARIANT} as a request sees it"),
                    (
                        f"{rate('anabranch_rows_total', 'model, variant', MODEL)} / {rate('anabranch_batches_total', 'model, variant', MODEL)}",
                        f"{VARIANT} of all batches",
                    ),
                ],
            ),
            Panel(
                title="First token, p95",
                queries=[(quantile("anabranch_first_token_seconds", 0.95), VARIANT)],
                unit="s",
                about="Of variants that generate text.",
            ),
            Panel(
                title="Further tokens, p95",
                queries=[(quantile("anabranch_token_seconds", 0.95), VARIANT)],
                unit="s",
                about="Of variants that generate text.",
            ),
        ),
    ),
    (
        "Experiments",
        (
            Panel(
                title="Phase",
                queries=[
                    (f"{shown(f'{EXPERIMENT}_phase', 'experiment, phase')} == 1", "{{experiment}} {{phase}}")
                ],
                kind="state-timeline",
                width=16,
            ),
            Panel(
                title="Step",
                queries=[
                    (shown(f"{EXPERIMENT}_step", "experiment"), "{{experiment}} step"),
                    (shown(f"{EXPERIMENT}_steps", "experiment"), "{{experiment}} of"),
                ],
            ),
            Panel(
                title="Evidence against what a verdict needs",
                queries=[
                    (
                        f"{shown(f'{EXPERIMENT}_log_evidence', 'experiment, variant, metric, claim')} / "
                        f"{shown(f'{EXPERIMENT}_log_evidence_needed', 'experiment, variant, metric, claim')}",
                        "{{variant}} {{metric}} {{claim}}",
                    )
                ],
                unit=PERCENT,
                limit=1.0,
                about="At 100 % the claim (the metric holds, or fails) is decided.",
            ),
            Panel(
                title="Verdicts",
                queries=[
                    (
                        f"{shown(f'{EXPERIMENT}_verdict', 'experiment, variant, metric, outcome')} == 1",
                        "{{experiment}} {{variant}} {{metric}}: {{outcome}}",
                    )
                ],
                kind="state-timeline",
            ),
            Panel(
                title="Estimates: fidelity, accuracy and what else is judged",
                queries=[
                    (shown(f"{EXPERIMENT}_estimate", "variant, metric"), "{{variant}} {{metric}}"),
                    (
                        shown(f"{EXPERIMENT}_estimate_low", "variant, metric"),
                        "{{variant}} {{metric}} at least",
                    ),
                    (
                        shown(f"{EXPERIMENT}_estimate_high", "variant, metric"),
                        "{{variant}} {{metric}} at most",
                    ),
                ],
                about="Each in its own unit, with its confidence sequence.",
            ),
            Panel(
                title="Compared replies a second",
                queries=[
                    (
                        f"max by (experiment, variant) (rate(anabranch_experiment_pairs_total{{{MODEL}}}[$__rate_interval]))",
                        "{{experiment}} {{variant}}",
                    )
                ],
                unit="ops",
            ),
            Panel(
                title="Decisions",
                queries=[
                    (
                        f"max by (experiment) (increase(anabranch_experiment_decisions_total{{{MODEL}}}[$__rate_interval]))",
                        "{{experiment}}",
                    )
                ],
            ),
            Panel(
                title="Sample ratio: evidence against what blocks",
                queries=[
                    (
                        f"{shown(f'{EXPERIMENT}_sample_ratio_log_evidence', 'experiment')} / "
                        f"{shown(f'{EXPERIMENT}_sample_ratio_log_evidence_needed', 'experiment')}",
                        "{{experiment}}",
                    )
                ],
                unit=PERCENT,
                limit=1.0,
            ),
        ),
    ),
    (
        "Failures",
        (
            Panel(
                title="Failed requests by variant and status",
                queries=[
                    (
                        rate("anabranch_requests_total", "variant, status", f'{MODEL}, status!="OK"'),
                        "{{variant}} {{status}}",
                    )
                ],
                unit="reqps",
            ),
            Panel(
                title="Masked and hedged: the baseline was asked",
                queries=[
                    (rate("anabranch_masked_requests_total", "variant", MODEL), "{{variant}} masked"),
                    (rate("anabranch_hedged_requests_total", "variant", MODEL), "{{variant}} hedged"),
                ],
                unit="reqps",
            ),
            Panel(
                title="Outside the experiment, or refused",
                queries=[
                    (rate("anabranch_baseline_only_requests_total", "reason"), "baseline only: {{reason}}"),
                    (rate("anabranch_refused_requests_total", "status"), "refused: {{status}}"),
                    (
                        rate("anabranch_access_refused_total", "port, status"),
                        "not let in: {{port}} {{status}}",
                    ),
                ],
                unit="reqps",
            ),
            Panel(
                title="Mirror copies",
                queries=[
                    (rate("anabranch_mirror_copies_total"), "sent"),
                    (rate("anabranch_mirror_dropped_copies_total", "reason"), "dropped: {{reason}}"),
                    ("sum(anabranch_mirror_copies_in_flight)", "under way"),
                ],
                unit="ops",
            ),
            Panel(
                title="Variants that take requests",
                queries=[(f"min by (model, variant) (anabranch_variant_fit{{{MODEL}}})", VARIANT)],
            ),
            Panel(
                title="Remote servers",
                queries=[
                    (rate("anabranch_remote_ejections_total", "variant", MODEL), "{{variant}} ejected"),
                    (
                        rate("anabranch_remote_refused_requests_total", "variant", MODEL),
                        "{{variant}} no room",
                    ),
                ],
                unit="ops",
            ),
        ),
    ),
    (
        "Server",
        (
            Panel(
                title="Processor time of the workers",
                queries=[
                    (
                        "sum by (instance) (rate(anabranch_worker_cpu_seconds_total[$__rate_interval]))",
                        "{{instance}}",
                    )
                ],
                unit="s",
                about="Seconds a second: 1 is one core.",
            ),
            Panel(
                title="Memory of the workers",
                queries=[("sum by (instance) (anabranch_worker_resident_bytes)", "{{instance}}")],
                unit="bytes",
            ),
            Panel(
                title="Event loops: p99 of a timer's delay",
                queries=[
                    (
                        "histogram_quantile(0.99, sum by (le, process) (rate(anabranch_event_loop_lag_seconds_bucket[$__rate_interval])))",
                        "{{process}}",
                    )
                ],
                unit="s",
            ),
            Panel(
                title="Journal",
                queries=[
                    (rate("anabranch_journal_records_total"), "written"),
                    (rate("anabranch_ingested_records_total"), "read"),
                    (rate("anabranch_journal_dropped_records_total"), "lost"),
                ],
                unit="ops",
            ),
            Panel(
                title="Evidence is behind by",
                queries=[("max by (instance) (anabranch_ingestion_lag_seconds)", "{{instance}}")],
                unit="s",
            ),
            Panel(
                title="Leading controller",
                queries=[
                    ("max by (instance) (anabranch_leading)", "{{instance}} leads"),
                    ("changes(max(anabranch_lease_token)[10m:])", "changes in 10 min"),
                ],
            ),
            Panel(
                title="Journal waiting to be read",
                queries=[("max by (instance) (anabranch_ingestion_waiting_bytes)", "{{instance}}")],
                unit="bytes",
            ),
            Panel(
                title="Controller's rounds and database, p95",
                queries=[
                    (
                        "histogram_quantile(0.95, sum by (le) (rate(anabranch_tick_duration_seconds_bucket[$__rate_interval])))",
                        "a round",
                    ),
                    (
                        "histogram_quantile(0.95, sum by (le) (rate(anabranch_store_statement_duration_seconds_bucket[$__rate_interval])))",
                        "a statement",
                    ),
                ],
                unit="s",
            ),
            Panel(
                title="Workers",
                queries=[
                    ("sum(anabranch_workers_serving)", "serving"),
                    ("sum(increase(anabranch_worker_restarts_total[$__rate_interval]))", "replaced"),
                    ("sum(anabranch_stale_workers)", "serving baselines only"),
                ],
            ),
            Panel(
                title="Workers last heard of the supervisor",
                queries=[("max by (instance) (anabranch_snapshot_age_seconds)", "{{instance}}")],
                unit="s",
            ),
            Panel(
                title="Feedback",
                queries=[
                    (rate("anabranch_feedback_total", "result"), "{{result}}"),
                    (rate("anabranch_ingested_duplicates_total"), "given twice"),
                ],
                unit="ops",
            ),
        ),
    ),
)


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {"fillOpacity": 60 if panel.is_stacked else 0, "showPoints": "never"}
        custom["stacking"] = {"mode": "percent" if panel.is_stacked else "none"}
        custom["thresholdsStyle"] = {"mode": "off" if panel.limit is None else "line"}
    return {
        "id": number,
        "title": panel.title,
        "description": panel.about,
        "type": panel.kind,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "custom": custom,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": panel.options,
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS:
        found.append(
            {
                "id": len(found) + 1,
                "title": title,
                "type": "row",
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            }
        )
        y, x, height = y + 1, 0, 0
        for panel in panels:
            if x + panel.width > WIDTH:
                x, y, height = 0, y + height, 0
            found.append(_panel(panel, len(found) + 1, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return found


def dashboard() -> dict[str, Any]:
    """The whole dashboard."""
    return {
        "uid": "anabranch",
        "title": "Anabranch",
        "tags": ["anabranch"],
        "schemaVersion": 38,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "model",
                    "label": "Model",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": "label_values(anabranch_requests_total, model)",
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": _panels(),
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
