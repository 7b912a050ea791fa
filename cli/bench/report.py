"""What a load run came to, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from anabranch.cli.bench.load import Outcome, Plan
from anabranch.cli.bench.tally import Quantiles, quantiles_ms
from anabranch.cli.numbers import count, milliseconds, per_second, share
from anabranch.wire.seam import Status

# A generator that is later than this once in a hundred requests measures itself.
LATE_MS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """One run.

    Attributes:
        rate_per_s: The rate asked for; None in a closed loop.
        concurrency: Requests always in flight in a closed loop; None with a rate.
        achieved_per_s: Requests that ended, OK or not, a second.
        latency_ms: Of OK answers, from the moment at which a request was meant to leave.
        send_lag_ms: From that moment until it left: what the generator itself added.
        kept_up: 99 of 100 requests left within a millisecond of their moment, and none was skipped.
        variants: OK answers by `x-invoked-variant`.
        unanswered: Requests that never ended.
        skipped: Requests never sent, as too many were unanswered.
        cpu_us_per_request: CPU time of the generator.
    """

    target: str
    rate_per_s: float | None
    concurrency: int | None
    connections: int
    duration_s: float
    warm_up_s: float
    seed: int
    sent: int
    ok: int
    by_status: dict[str, int]
    errors: dict[str, str]
    achieved_per_s: float
    latency_ms: Quantiles
    send_lag_ms: Quantiles
    kept_up: bool
    variants: dict[str, int]
    unanswered: int
    skipped: int
    cpu_share: float
    cpu_us_per_request: float | None

    @property
    def is_clean(self) -> bool:
        """Every request was sent, and answered with OK."""
        return self.sent > 0 and self.ok == self.sent and not self.skipped


def load_report(target: str, connections: int, plan: Plan, outcome: Outcome) -> LoadReport:
    """Sum a run up."""
    tally = outcome.tally
    ended = tally.ended.total()
    lag = quantiles_ms(tally.lag)
    return LoadReport(
        target=target,
        rate_per_s=plan.rate_per_s,
        concurrency=plan.concurrency if plan.rate_per_s is None else None,
        connections=connections,
        duration_s=plan.duration_s,
        warm_up_s=plan.warm_up_s,
        seed=plan.seed,
        sent=tally.sent,
        ok=tally.ended[Status.OK],
        by_status={status.name: number for status, number in sorted(tally.ended.items())},
        errors={status.name: text for status, text in sorted(tally.texts.items())},
        achieved_per_s=round(ended / outcome.elapsed_s, 1),
        latency_ms=quantiles_ms(tally.latency),
        send_lag_ms=lag,
        kept_up=not tally.skipped and (lag.p99 is None or lag.p99 <= LATE_MS),
        variants=dict(sorted(tally.variants.items())),
        unanswered=outcome.unanswered,
        skipped=tally.skipped,
        cpu_share=round(outcome.cpu_s / outcome.elapsed_s, 3),
        cpu_us_per_request=round(outcome.cpu_s / ended * 1e6, 1) if ended else None,
    )


def load_table(report: LoadReport) -> Table:
    """Draw a run."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    asked = (
        f"{per_second(report.rate_per_s)} requests/s, Poisson"
        if report.rate_per_s is not None
        else f"{report.concurrency} always in flight"
    )
    table.add_row("load", f"{asked}, {report.duration_s:g} s, {report.connections} connections")
    table.add_row("sent", f"{count(report.sent)}, {count(report.ok)} OK{_lost(report)}")
    if report.by_status.keys() - {Status.OK.name}:
        table.add_row(
            "status", ", ".join(f"{name} {count(number)}" for name, number in report.by_status.items())
        )
    table.add_row("achieved", f"{per_second(report.achieved_per_s)}/s")
    table.add_row("latency ms", _spread(report.latency_ms))
    table.add_row("send lag ms", _spread(report.send_lag_ms))
    if report.variants:
        total = sum(report.variants.values())
        parts = (
            f"{name} {count(number)} ({share(number / total)})" for name, number in report.variants.items()
        )
        table.add_row("variants", ", ".join(parts))
    each = report.cpu_us_per_request
    spent = "" if each is None else f", {each:g} µs a request"
    table.add_row("generator", f"{share(report.cpu_share)} of a core{spent}")
    return table


def _lost(report: LoadReport) -> str:
    unanswered = f", {count(report.unanswered)} never answered" if report.unanswered else ""
    return unanswered + (f", {count(report.skipped)} skipped" if report.skipped else "")


def _spread(quantiles: Quantiles) -> str:
    if quantiles.max is None:
        return "-"
    named = {
        "p50": quantiles.p50,
        "p90": quantiles.p90,
        "p99": quantiles.p99,
        "p99.9": quantiles.p99_9,
        "max": quantiles.max,
    }
    return "  ".join(f"{name} {milliseconds(value)}" for name, value in named.items())
