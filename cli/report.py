"""The story of an experiment as one Markdown page: what was asked, what happened, why, and by which numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from anabranch.cli.marks import VERDICT_MARKS
from anabranch.cli.numbers import count, duration, in_unit, interval, milliseconds, moment, rate, share
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
from anabranch.cli.view_types import ArmState, DecisionView, ExperimentView, VerdictView


def report(view: ExperimentView, decisions: Sequence[DecisionView], document: Mapping[str, Any]) -> str:
    """The page.

    Args:
        view: The experiment.
        decisions: Its whole log, oldest first; of earlier spec versions too.
        document: What was applied.
    """
    mine = [decision for decision in decisions if decision.spec_version == view.spec_version]
    blocks = [
        [f"# {view.name}: {view.phase}", "", outcome(view)],
        _asked(view),
        _variants(view),
        _verdicts(view),
        _happened(mine),
        _proof(view, decisions),
        ["## The document", "", "```yaml", _document(document), "```"],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _asked(view: ExperimentView) -> list[str]:
    unit = "Every request" if view.unit is None else f"Every value of the request metadata `{view.unit}`"
    candidates = ", ".join(f"`{arm.name}`" for arm in view.arms if arm.state is not ArmState.BASELINE)
    lines = [
        "## What was asked",
        "",
        f"Which of {candidates} may replace `{view.baseline}` as the baseline of `{view.model}`? "
        f"{unit} is assigned at random by itself. The probability of promoting a wrong candidate is at most {view.delta:.4g}, "
        f"of removing a sound one at most {view.rollback_delta:.4g}, at all times of looking.",
        "",
    ]
    for step in view.steps:
        spent = "" if step.elapsed_s is None else f", {duration(step.elapsed_s)}"
        detail = f": {step.detail}" if step.detail else ""
        lines.append(f"{step.number}. **{step.title}**{detail} ({step.state}{spent})")
    return lines


def _variants(view: ExperimentView) -> list[str]:
    rows = [
        (
            f"`{arm.name}`",
            arm.state,
            count(arm.requests),
            share(arm.weight),
            milliseconds(arm.p50_ms),
            milliseconds(arm.p95_ms),
            milliseconds(arm.p99_ms),
            rate(arm.error_rate),
            count(arm.masked),
            count(arm.mirrored_pairs),
        )
        for arm in view.arms
    ]
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
    lines = ["## Variants", "", *_table(head, rows, left=2), "", TABLE_COVERS]
    waited = [f"- `{arm.name}`: {labels_told(labels)}" for arm in view.arms for labels in arm.labels]
    if waited:
        lines += ["", *waited]
    removed = [arm for arm in view.arms if arm.removed_reason]
    if removed:
        lines += ["", *(f"- `{arm.name}` was removed: {arm.removed_reason}" for arm in removed)]
    return lines


def _verdicts(view: ExperimentView) -> list[str]:
    candidates = [arm for arm in view.arms if arm.verdicts]
    if not candidates:
        return []
    metrics = candidates[0].verdicts
    head = ["Candidate", *(f"{metric.metric} ({limit_short(metric) or metric.role})" for metric in metrics)]
    rows = [(f"`{arm.name}`", *(_cell(verdict) for verdict in arm.verdicts)) for arm in candidates]
    legend = (
        "✓ holds, ✗ does not, … open, · shown only. Estimates with intervals that hold at all times of looking; "
        "accuracy and other compared metrics are candidate minus baseline."
    )
    return ["## Verdicts", "", *_table(head, rows, left=len(head)), "", legend, "", EVIDENCE_MEANS]


def _cell(verdict: VerdictView) -> str:
    mark = "·" if verdict.role == "signal" else VERDICT_MARKS[verdict.outcome]
    if verdict.estimate is None:
        return f"{mark} no data"
    text = f"{mark} {in_unit(verdict.unit, verdict.estimate, is_difference=verdict.is_difference)}"
    if verdict.low is not None and verdict.high is not None:
        text += f" {interval(verdict.unit, verdict.low, verdict.high, is_difference=verdict.is_difference)}"
    return text


def _happened(decisions: Sequence[DecisionView]) -> list[str]:
    if not decisions:
        return ["## What happened", "", "Nothing was decided yet."]
    lines = ["## What happened", ""]
    before: Mapping[str, float] = {}
    for decision in decisions:
        lines.append(
            f"- **+{duration(decision.since_start_s)}** (decision {decision.number}, {decision.phase})"
        )
        lines += [f"    - {reason_of(action)}" for action in telling(decision) if action.change != "weights"]
        if dict(decision.weights) != dict(before):
            lines.append(f"    - traffic: {traffic(dict(decision.weights))}")
        before = decision.weights
    return lines


def _proof(view: ExperimentView, decisions: Sequence[DecisionView]) -> list[str]:
    if not decisions:
        return []
    head = decisions[-1]
    return [
        "## Proof",
        "",
        f"Applied {moment(view.applied_s)}, spec version {view.spec_version}. {len(decisions)} decisions, each "
        f"chained to the one before it by SHA-256; the last hash is `{head.hash}`. "
        f"`anabranch verify {view.name}` checks the chain.",
    ]


def _document(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=110).rstrip("\n")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> Iterator[str]:
    """A Markdown table; the first `left` columns are aligned to the left, the others to the right."""
    yield _row(head)
    yield _row(["---" if index < left else "---:" for index in range(len(head))])
    for row in rows:
        yield _row(row)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
