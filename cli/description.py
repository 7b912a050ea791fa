"""One experiment in full, as text with every number and every reason in a sentence."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from anabranch.cli.marks import (
    ARM_MARKS,
    ARM_STYLES,
    PHASE_MARKS,
    PHASE_STYLES,
    STEP_MARKS,
    STEP_STYLES,
    VERDICT_MARKS,
    VERDICT_STYLES,
)
from anabranch.cli.numbers import count, duration, in_unit, interval, milliseconds, moment, rate, share
from anabranch.cli.story import EVIDENCE_MEANS, TABLE_COVERS, labels_told, outcome, reason_of
from anabranch.cli.view_types import ArmState, ArmView, ExperimentView, Unit, VerdictView

_LABEL = 14


def describe_view(view: ExperimentView) -> Iterator[Text]:
    """The lines of the description."""
    yield from _head(view)
    yield Text()
    yield Text(outcome(view))
    yield from _section("Steps")
    for step in view.steps:
        spent = "" if step.elapsed_s is None else f"  {duration(step.elapsed_s)}"
        told = ", ".join(part for part in (step.progress, step.detail) if part)
        yield Text.assemble(
            f"  {step.number} ",
            (f"{STEP_MARKS[step.state]} {step.title}", STEP_STYLES[step.state]),
            (f"  {step.state}{spent}", "dim"),
            f"  {told}" if told else "",
        )
    yield from _section("Variants")
    for arm in view.arms:
        yield from _arm(arm)
    yield Text()
    yield Text(f"  {TABLE_COVERS}", style="dim")
    yield Text(f"  {EVIDENCE_MEANS}", style="dim")
    if view.requests:
        yield from _section("Asked, and not answered yet")
        for request in view.requests:
            yield Text(f"  {request.verb} {request.argument}".rstrip() + f" by {request.actor}")
    if view.waiting_for:
        yield from _section("Waits for")
        for sentence in view.waiting_for:
            yield Text(f"  {sentence}")
    if view.decisions:
        left = view.decisions_total - len(view.decisions)
        yield from _section(
            "Decisions" + (f" (the last {len(view.decisions)} of {view.decisions_total})" if left else "")
        )
        for decision in view.decisions:
            yield Text.assemble(
                f"  #{decision.number}  {decision.at}  +{duration(decision.since_start_s)}  ",
                (decision.phase, PHASE_STYLES[decision.phase]),
            )
            for action in decision.actions:
                yield Text(f"      {action.change}: {reason_of(action)}")


def _head(view: ExperimentView) -> Iterator[Text]:
    yield _field("Name", view.name)
    yield _field("Model", view.model)
    phase = Text(f"{PHASE_MARKS[view.phase]} {view.phase}", style=PHASE_STYLES[view.phase])
    yield Text.assemble(_field("Phase", ""), phase)
    applied = f"{moment(view.applied_s)}, spec version {view.spec_version}"
    yield _field("Applied", f"{applied} ({duration(view.age_s)} ago)")
    yield _field("Ran for", "not started" if view.elapsed_s is None else duration(view.elapsed_s))
    yield _field("Unit", "every request" if view.unit is None else f"metadata {view.unit}")
    yield _field("Objective", view.objective or "none: the first candidate that holds")
    yield _field(
        "Errors",
        f"at most {view.delta:.4g} that a wrong candidate is promoted, {view.rollback_delta:.4g} that a sound one is removed",
    )
    yield _field("Mirroring", share(view.mirror) if view.mirror else "off")
    yield _field("Winner", view.winner or "none yet")


def _arm(arm: ArmView) -> Iterator[Text]:
    yield Text.assemble(
        "  ",
        (f"{ARM_MARKS[arm.state]} {arm.name}", ARM_STYLES[arm.state] or "bold"),
        (f"  {arm.state}", "dim"),
    )
    if arm.state is ArmState.REMOVED:
        yield Text.assemble("      ", ("removed: ", "red"), arm.removed_reason)
    observed = "" if arm.share_observed is None else f", {share(arm.share_observed)} of all so far"
    yield Text(
        f"      traffic    {share(arm.weight)} now{observed}; {count(arm.requests)} requests, {count(arm.units)} units"
    )
    yield Text(
        f"      latency    p50 {milliseconds(arm.p50_ms)}  p95 {milliseconds(arm.p95_ms)}  p99 {milliseconds(arm.p99_ms)} ms"
    )
    yield Text(f"      errors     {rate(arm.error_rate)}; {count(arm.masked)} masked by the baseline")
    if arm.mirrored_pairs or arm.mirrored_failed:
        agreement = ""
        if arm.agreement is not None:
            ends = interval(Unit.SHARE, arm.agreement.low, arm.agreement.high)
            agreement = f"; top-1 agreement {in_unit(Unit.SHARE, arm.agreement.estimate)} {ends}"
            agreement += " with itself: the noise floor" if arm.state is ArmState.BASELINE else ""
        yield Text(
            f"      mirrored   {count(arm.mirrored_pairs)} pairs, {count(arm.mirrored_failed)} unanswered{agreement}"
        )
    for labels in arm.labels:
        yield Text(f"      labels     {labels_told(labels)}")
    for verdict in arm.verdicts:
        yield _verdict(verdict)


def _verdict(verdict: VerdictView) -> Text:
    mark = "·" if verdict.role == "signal" else VERDICT_MARKS[verdict.outcome]
    return Text.assemble(
        f"      {verdict.metric:<10} ",
        (f"{mark} ", VERDICT_STYLES[verdict.outcome]),
        verdict.reason,
        (_by_counts(verdict), "dim"),
    )


def _by_counts(verdict: VerdictView) -> str:
    """What the counts alone say while no arm moves: beside the evidence that decides, never instead of it."""
    evidence = verdict.evidence_by_counts
    return "" if evidence is None else f"; by the counts alone, for {evidence:,.3g}"


def _field(label: str, value: str) -> Text:
    return Text.assemble((f"{label}:".ljust(_LABEL), "dim"), value)


def _section(title: str) -> Iterator[Text]:
    yield Text()
    yield Text(title, style="bold")
