"""How long an experiment will take, as people see it: when each step ends and each claim is proven."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from anabranch.bandit.information import Assumptions
from anabranch.bandit.judge import limit_text
from anabranch.bandit.planner import LEVELS, plan
from anabranch.bandit.spec import Experiment, Role
from anabranch.cli.numbers import count, duration
from anabranch.cli.plots.axes import Axis, draw_time_axis
from anabranch.cli.plots.canvas import CHARACTER, Canvas
from anabranch.cli.step_views import title

_BAR = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """When a step ends, in seconds since the start; None where it waits without a limit.

    Attributes:
        half_s: In half of such experiments.
        most_s: In nine of ten.
    """

    number: int
    title: str
    half_s: float | None
    most_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedClaim:
    """When a metric of a candidate is proven; None where it is not, under the assumptions.

    Attributes:
        half_requests: Routed to the model until then.
    """

    metric: str
    limit: str
    half_s: float | None
    most_s: float | None
    half_requests: float | None
    most_requests: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """A planned experiment.

    Attributes:
        half_is_decided: Whether half of such experiments prove every claim before a step gives up.
        most_is_decided: Whether nine of ten do.
        assumed: What is taken to be true of the traffic.
    """

    experiment: str
    requests_per_s: float
    half_is_decided: bool
    most_is_decided: bool
    steps: tuple[PlannedStep, ...]
    claims: tuple[PlannedClaim, ...]
    assumed: dict[str, float]


def plan_view(experiment: Experiment, assumed: Assumptions) -> PlanView:
    """The plan of an experiment under assumptions."""
    assert LEVELS == (0.5, 0.9), "the fields are named for these levels"
    found = plan(experiment, assumed)
    metrics = [metric for metric in experiment.metrics if metric.role is not Role.SIGNAL]
    return PlanView(
        experiment=experiment.name,
        requests_per_s=assumed.requests_per_s,
        half_is_decided=found.is_decided[0],
        most_is_decided=found.is_decided[1],
        steps=tuple(
            PlannedStep(
                number=number,
                title=title(step),
                half_s=_finite(planned.ends_s[0]),
                most_s=_finite(planned.ends_s[1]),
            )
            for number, (step, planned) in enumerate(zip(experiment.steps, found.steps, strict=True), start=1)
        ),
        claims=tuple(
            PlannedClaim(
                metric=claim.metric,
                limit=limit_text(metric),
                half_s=_finite(claim.after_s[0]),
                most_s=_finite(claim.after_s[1]),
                half_requests=_finite(claim.requests[0]),
                most_requests=_finite(claim.requests[1]),
            )
            for metric, claim in zip(metrics, found.claims, strict=True)
        ),
        assumed={each.name: getattr(assumed, each.name) for each in fields(assumed)},
    )


def plan_table(view: PlanView) -> RenderableType:
    """Claims and steps with a bar each: full until half of the runs are there, light until nine of ten."""
    ends = [claim.most_s or claim.half_s or 0.0 for claim in view.claims]
    ends += [step.most_s or step.half_s or 0.0 for step in view.steps]
    longest = max(ends, default=0.0)
    claims = _table("CLAIM", "HALF", "9 OF 10", "REQUESTS", "", "LIMIT")
    for claim in view.claims:
        requests = "-" if claim.half_requests is None else count(round(claim.half_requests))
        claims.add_row(
            claim.metric,
            duration(claim.half_s),
            duration(claim.most_s),
            requests,
            _bar(claim.half_s, claim.most_s, longest),
            Text(claim.limit, style="dim"),
        )
    steps = _table("STEP ENDS", "HALF", "9 OF 10", "", "")
    for step in view.steps:
        steps.add_row(
            f"{step.number} {step.title}",
            duration(step.half_s),
            duration(step.most_s),
            "",
            _bar(step.half_s, step.most_s, longest),
        )
    return Group(claims, Text(), steps, Text(), *(Text(line) for line in summary(view)))


def summary(view: PlanView) -> list[str]:
    """What the plan comes to, in sentences."""
    unproven = [claim.metric for claim in view.claims if claim.half_s is None]
    last = view.steps[-1] if view.steps else None
    lines = []
    if unproven:
        lines.append(
            f"never proven under these assumptions: {', '.join(unproven)}: widen its limit, give it traffic, or leave it out"
        )
    elif not view.half_is_decided:
        lines.append(
            "a step gives up before every claim is proven, in most runs: make its maxDuration longer"
        )
    elif not view.most_is_decided:
        lines.append(
            "half of the runs prove every claim in time, fewer than nine of ten: longer maxDurations help"
        )
    if last is not None and last.half_s is not None and not unproven:
        most = "" if last.most_s is None else f", nine of ten after {duration(last.most_s)}"
        lines.append(f"half of such experiments are over after {duration(last.half_s)}{most}")
    return lines


def assumptions_text(view: PlanView) -> str:
    """What was assumed, on one line."""
    told = ", ".join(
        f"{name.replace('_', ' ')} {value:g}"
        for name, value in view.assumed.items()
        if name != "requests_per_s"
    )
    return f"assumed: {view.requests_per_s:g} requests a second, {told}"


def plan_svg(view: PlanView) -> str:
    """The plan as a picture: a bar for every claim and step."""
    rows: list[tuple[str, float | None, float | None, str]] = [
        *((f"{claim.metric} proven", claim.half_s, claim.most_s, "#0072b2") for claim in view.claims),
        *((f"{step.number} {step.title} ends", step.half_s, step.most_s, "#e69f00") for step in view.steps),
    ]
    left = 24 + CHARACTER * max(len(name) for name, *_ in rows)
    canvas = Canvas(820.0, 40.0 + 24 * len(rows))
    longest = max((most or half or 0.0 for _, half, most, _ in rows), default=0.0)
    across = Axis(0.0, max(longest, 1.0), left, 800.0)
    bottom = canvas.height - 26
    draw_time_axis(canvas, across, 8.0, bottom)
    for index, (name, half, most, colour) in enumerate(rows):
        y = 12.0 + 24 * index
        canvas.text(left - 8, y + 12, name, anchor="end", fill="var(--ink)")
        if half is None:
            canvas.text(left + 4, y + 12, "not under these assumptions")
            continue
        canvas.rect(left, y, across.at(half) - left, 16, colour)
        if most is not None:
            canvas.rect(
                across.at(half), y, across.at(most) - across.at(half), 16, colour, ' fill-opacity="0.4"'
            )
    title_text = f"{view.experiment} at {view.requests_per_s:g} requests a second"
    return canvas.svg(
        title_text,
        "Full bars: half of such experiments; light bars: nine of ten. " + " ".join(summary(view)),
        stands_alone=True,
    )


def _bar(half_s: float | None, most_s: float | None, longest_s: float) -> Text:
    if half_s is None or longest_s <= 0.0:
        return Text("")
    full = round(half_s / longest_s * _BAR)
    light = 0 if most_s is None else round(most_s / longest_s * _BAR) - full
    return Text.assemble("█" * full, ("░" * max(0, light), "dim")) if full + light else Text("▏")


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(
            heading, no_wrap=True, justify="right" if heading in ("HALF", "9 OF 10", "REQUESTS") else "left"
        )
    return table


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
