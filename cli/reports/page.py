"""The story of an experiment as one HTML page: no network, no script, everything escaped, light and dark, phone and desk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import yaml

from anabranch.bandit.decision import Decision
from anabranch.cli.marks import ARM_MARKS, PHASE_MARKS, VERDICT_MARKS
from anabranch.cli.numbers import count, duration, in_unit, interval, milliseconds, moment, rate, share
from anabranch.cli.palette import arm_colours
from anabranch.cli.plots.figures import Figure
from anabranch.cli.reports.style import STYLE
from anabranch.cli.story import (
    EVIDENCE_MEANS,
    TABLE_COVERS,
    labels_told,
    outcome,
    reason_of,
    telling,
    traffic,
)
from anabranch.cli.verdict_grid import limit_short
from anabranch.cli.view_types import ArmState, ArmView, DecisionView, ExperimentView, VerdictView


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What a page tells.

    Attributes:
        decisions: Of this spec version, oldest first.
        verdicts_at: By decision number, every verdict it rested on.
        document: What was applied.
        versions: What wrote the page, by name.
        head: Hash of the last decision; empty without one.
    """

    view: ExperimentView
    decisions: Sequence[DecisionView]
    verdicts_at: Mapping[int, Sequence[Mapping[str, str]]]
    document: Mapping[str, Any]
    figures: Sequence[Figure]
    versions: Mapping[str, str]
    head: str


def page(story: Story) -> str:
    """The whole page."""
    view = story.view
    parts = [
        *_head(view),
        *_tiles(view),
        *_asked(view),
        *_figures(story.figures, "traffic"),
        *_variants(view),
        *_figures(story.figures, "latency"),
        *_verdicts(view),
        *_figures(story.figures, "metric"),
        *_figures(story.figures, "posterior"),
        *_decisions(story),
        *_proof(story),
    ]
    title = escape(f"{view.name}: {view.phase}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _head(view: ExperimentView) -> Iterator[str]:
    kind = view.phase.lower()
    yield (
        f'<header><p class="model">{escape(view.model)}</p><h1>{escape(view.name)} '
        f'<span class="phase {escape(kind)}">{PHASE_MARKS[view.phase]} {escape(view.phase)}</span></h1>'
        f'<p class="lead">{escape(outcome(view))}</p></header>'
    )


def _tiles(view: ExperimentView) -> Iterator[str]:
    served = sum(arm.requests for arm in view.arms)
    pairs = sum(arm.mirrored_pairs for arm in view.arms)
    tiles = [
        ("ran for", "not started" if view.elapsed_s is None else duration(view.elapsed_s)),
        ("requests", count(served)),
        ("compared replies", count(pairs)),
        ("decisions", count(view.decisions_total)),
        ("winner", view.winner or "none"),
    ]
    yield (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles)
        + "</dl>"
    )


def _asked(view: ExperimentView) -> Iterator[str]:
    candidates = ", ".join(
        f"<code>{escape(arm.name)}</code>" for arm in view.arms if arm.state is not ArmState.BASELINE
    )
    unit = (
        "Every request"
        if view.unit is None
        else f"Every value of the request metadata <code>{escape(view.unit)}</code>"
    )
    yield (
        f"<section><h2>What was asked</h2><p>Which of {candidates} may replace <code>{escape(view.baseline)}</code> as the "
        f"baseline of <code>{escape(view.model)}</code>? {unit} is assigned at random by itself. The probability of promoting a "
        f"wrong candidate is at most {view.delta:.4g}, of removing a sound one at most {view.rollback_delta:.4g}, at all times of "
        "looking.</p>"
    )
    rows = []
    for step in view.steps:
        spent = "" if step.elapsed_s is None else duration(step.elapsed_s)
        rows.append(
            f'<li class="{escape(step.state)}"><b>{escape(step.title)}</b> <span>{escape(step.detail)}</span> '
            f"<small>{escape(' '.join(part for part in (str(step.state), spent) if part))}</small></li>"
        )
    yield f'<ol class="steps">{"".join(rows)}</ol></section>'


def _figures(figures: Sequence[Figure], group: str) -> Iterator[str]:
    """Each plot twice: as wide as a page, and as wide as a phone, where small letters could not be read."""
    shown = [figure for figure in figures if figure.group == group]
    for figure in shown:
        yield (
            f"<figure><figcaption><b>{escape(figure.title)}</b> {escape(figure.caption)}</figcaption>"
            f'<div class="wide">{figure.draw(_WIDE, False)}</div><div class="narrow">{figure.draw(_NARROW, False)}</div></figure>'
        )


_WIDE, _NARROW = 820.0, 350.0


def _variants(view: ExperimentView) -> Iterator[str]:
    colours = arm_colours([arm.name for arm in view.arms])
    head = (
        "Variant",
        "State",
        "Requests",
        "Weight",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "Errors",
        "Masked",
        "Pairs",
    )
    rows = [
        (
            f'<span class="dot" style="background:{colours[arm.name]}"></span>{ARM_MARKS[arm.state]} {escape(arm.name)}',
            *(
                escape(cell)
                for cell in (
                    str(arm.state),
                    count(arm.requests),
                    share(arm.weight),
                    milliseconds(arm.p50_ms),
                    milliseconds(arm.p95_ms),
                    milliseconds(arm.p99_ms),
                    rate(arm.error_rate),
                    count(arm.masked),
                    count(arm.mirrored_pairs),
                )
            ),
        )
        for arm in view.arms
    ]
    yield f"<section><h2>Variants</h2>{_table(head, rows, left=2)}<p class=note>{escape(TABLE_COVERS)}</p>"
    waited = [
        f"<li><code>{escape(arm.name)}</code>: {escape(labels_told(labels))}</li>"
        for arm in view.arms
        for labels in arm.labels
    ]
    if waited:
        yield f"<ul>{''.join(waited)}</ul>"
    gone = [arm for arm in view.arms if arm.removed_reason]
    if gone:
        items = (
            f"<li><code>{escape(a.name)}</code> was removed: {escape(a.removed_reason)}</li>" for a in gone
        )
        yield f"<ul>{''.join(items)}</ul>"
    yield "</section>"


def _verdicts(view: ExperimentView) -> Iterator[str]:
    candidates = [arm for arm in view.arms if arm.verdicts]
    if not candidates:
        return
    head = ["Candidate", *(f"{v.metric}\n{limit_short(v) or v.role}" for v in candidates[0].verdicts)]
    rows = [
        (escape(arm.name), *(_verdict_cell(arm, verdict) for verdict in arm.verdicts)) for arm in candidates
    ]
    yield f"<section><h2>Verdicts</h2>{_table(head, rows, left=len(head))}"
    yield (
        '<p class="note">✓ holds, ✗ does not, … open, · shown only. Intervals hold at all times of looking; accuracy and '
        f"other compared metrics are candidate minus baseline. {escape(EVIDENCE_MEANS)}</p></section>"
    )


def _verdict_cell(arm: ArmView, verdict: VerdictView) -> str:
    mark = "·" if verdict.role == "signal" else VERDICT_MARKS[verdict.outcome]
    kind = "signal" if verdict.role == "signal" else verdict.outcome.lower()
    said = "no data"
    if verdict.estimate is not None:
        said = in_unit(verdict.unit, verdict.estimate, is_difference=verdict.is_difference)
        if verdict.low is not None and verdict.high is not None:
            ends = interval(verdict.unit, verdict.low, verdict.high, is_difference=verdict.is_difference)
            said = f"{said}<br><small>{escape(ends)}</small>"
    return f'<span class="{kind}" title="{escape(f"{arm.name}: {verdict.reason}")}">{mark} {said}</span>'


def _decisions(story: Story) -> Iterator[str]:
    yield "<section><h2>What happened</h2>"
    if not story.decisions:
        yield "<p>Nothing was decided yet.</p></section>"
        return
    yield '<ol class="log">'
    before: Mapping[str, float] = {}
    for decision in story.decisions:
        lines = [
            f"<p>{escape(reason_of(action))}</p>"
            for action in telling(decision)
            if action.change != "weights"
        ]
        if dict(decision.weights) != dict(before):
            lines.append(f"<p><b>traffic</b> {escape(traffic(dict(decision.weights)))}</p>")
        before = decision.weights
        yield (
            f"<li><time>+{escape(duration(decision.since_start_s))}</time><div>{''.join(lines)}"
            f"{_certificate(decision, story.verdicts_at.get(decision.number, ()))}</div></li>"
        )
    yield "</ol></section>"


def _certificate(decision: DecisionView, verdicts: Sequence[Mapping[str, str]]) -> str:
    head = ("Metric", "Candidate", "Outcome", "Evidence for", "needed", "against", "needed", "n")
    rows = [
        tuple(
            escape(verdict[key])
            for key in (
                "metric",
                "variant",
                "outcome",
                "for",
                "for_needed",
                "against",
                "against_needed",
                "samples",
            )
        )
        for verdict in verdicts
    ]
    table = _table(head, rows, left=3) if rows else "<p>No verdicts yet.</p>"
    return (
        f"<details><summary>decision {decision.number}, {escape(decision.phase)}, {escape(decision.at)}</summary>"
        f"<p>Rests on every outcome up to delta {decision.evidence_last}, epoch {decision.epoch}.<br>"
        f'SHA-256, chained: <code class="hash">{escape(decision.hash)}</code></p>{table}</details>'
    )


def _proof(story: Story) -> Iterator[str]:
    view = story.view
    versions = ", ".join(f"{escape(name)} {escape(value)}" for name, value in story.versions.items())
    chained = (
        f'{len(story.decisions)} decisions of this version, each chained to the one before it; the last hash is <code class="hash">'
        f"{escape(story.head)}</code>. <code>anabranch verify {escape(view.name)}</code> computes every verdict again from "
        "the kept counts."
        if story.head
        else "No decisions yet."
    )
    text = yaml.safe_dump(dict(story.document), sort_keys=False, allow_unicode=True, width=90).rstrip("\n")
    yield (
        f"<section><h2>Proof</h2><p>{chained}</p>"
        f"<h2>The document</h2><p>Applied {escape(moment(view.applied_s))}, spec version {view.spec_version}.</p>"
        f"<pre>{escape(text)}</pre>"
        f'<p class="note">Written {escape(moment(view.at_s))} by {versions}.</p></section>'
    )


def verdict_rows(decision: Decision, multiple: Callable[[float], str]) -> list[dict[str, str]]:
    """A decision's verdicts as its certificate shows them."""
    return [
        {
            "metric": verdict.metric,
            "variant": verdict.variant,
            "outcome": verdict.outcome,
            "for": multiple(verdict.log_e_pass),
            "for_needed": multiple(verdict.log_need_pass),
            "against": multiple(verdict.log_e_fail),
            "against_needed": multiple(verdict.log_need_fail),
            "samples": count(verdict.samples),
        }
        for verdict in decision.verdicts
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A table that scrolls by itself where it is too wide; the first `left` columns are aligned to the left.

    Cells are HTML; headings are text, a line break for a newline.
    """

    def side(index: int) -> str:
        return "" if index < left else ' class="number"'

    headings = "".join(
        f'<th scope="col"{side(index)}>{"<br>".join(escape(line) for line in name.splitlines())}</th>'
        for index, name in enumerate(head)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{side(index)}>{cell}</td>" for index, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table><thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table></div>'
