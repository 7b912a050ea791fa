"""docs/metrics.md, written from the catalogue: `python -m anabranch.router.metrics.document > docs/metrics.md`."""

from __future__ import annotations

from typing import Final

from anabranch.router.metrics.catalogue import GROUPS, ROWS, SECONDS, Metric, metrics_of

_HEAD: Final = """\
# Metrics

Written by `make reference` from `router/metrics/catalogue.py`; a test holds the two together.

`anabranch serve --metrics-port 8003` answers `GET http://127.0.0.1:8003/metrics` for the whole server: the supervisor adds
up what its workers report once a second, so that one target is one server, whatever `--workers` is. The port is plain
HTTP, only reads, and listens on loopback; `--metrics-host` opens it elsewhere. [Prometheus how-to](howto/prometheus.md).
`anabranch controller --metrics-port` has the groups Controller and Experiments, and nothing of a journal: routers read those.
`serve --dataplane envoy --metrics-port` tells of requests what Envoy's access log says; queues and connections are in Envoy's own
`/stats/prometheus`.

- Counters and histograms survive a worker that ends: what it had reported stays in the sum. A worker that is killed
  takes what it counted since its last report with it, a second's worth at most; the journal, by which decisions are
  taken, loses nothing.
- Histograms have the same borders in every variant and on every replica, so `sum by (le)` over any of them is right. Durations:
  {seconds} s; rows: {rows}.
- Labels are names of models, variants, experiments and their metrics, or words of this page; never a unit, a client or a
  request. The series are bounded by variants served, and experiments tell those that go on and the last one of each model.
- `process_…` are the supervisor's own, as every Prometheus client has them.
- A request costs its worker one function call and six numbers appended to an array; buckets are counted once a second. Together
  0.56 µs of CPU, two fifths of what one labelled histogram and one counter of prometheus_client cost on the request path: `python bench/metrics_cost.py`.
"""


def text() -> str:
    """The page."""
    parts = [
        _HEAD.format(
            seconds=", ".join(f"{border:g}" for border in SECONDS), rows=", ".join(f"{row:g}" for row in ROWS)
        )
    ]
    for title, group in GROUPS.items():
        rows = "\n".join(_row(metric) for metric in metrics_of(group))
        parts.append(f"## {title}\n\n| metric | kind | labels | |\n|---|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.about} |"


if __name__ == "__main__":
    print(text(), end="")
