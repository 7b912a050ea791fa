"""A changed document while an experiment goes on: what may change in flight, and what would need fresh evidence.

Every claim's error was set when its test began, so whatever a test or its error depends on stays. What is still to come
may change: how long things take, who is asked and told, and the steps after the current one.
"""

from __future__ import annotations

from dataclasses import fields

from anabranch.bandit.lifecycle import IllegalTransition
from anabranch.bandit.spec import BanditStep, Experiment, PromoteStep, SetWeightStep, Step, kind_of
from anabranch.bandit.state import ExperimentState

_FREE = {
    "min_age_s": "minAge",
    "exposure_budget": "exposureBudget",
    "mode": "mode",
    "gates": "gates",
    "notifications": "notifications",
}
"""What may change at any time, by its name in the document."""

_IN_DOCUMENT = {
    "unit_metadata": "unit",
    "rollback_delta": "rollbackDelta",
    "futility_beta": "futilityBeta",
    "hourly_prices": "hourlyPrices",
}


def changes(before: Experiment, after: Experiment, state: ExperimentState) -> list[str]:
    """What a revision changes, each in a few words.

    Raises:
        IllegalTransition: With everything that cannot change in flight, and why.
    """
    changed: list[str] = []
    refused: list[str] = []
    for field in fields(Experiment):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old == new or field.name == "steps":
            continue
        name = _FREE.get(field.name) or _IN_DOCUMENT.get(field.name, field.name)
        if field.name in _FREE:
            plain = isinstance(old, int | float | str | None) and isinstance(new, int | float | str | None)
            changed.append(f"{name} {old} → {new}" if plain else name)
        else:
            refused.append(f"spec.{name} restarts the evidence")
    for index in range(max(len(before.steps), len(after.steps))):
        olds, news = before.steps[index : index + 1], after.steps[index : index + 1]
        if olds == news:
            continue
        reason = _why_not(olds, news, index, before, state)
        if reason:
            refused.append(f"spec.steps[{index}] {reason}")
        else:
            changed.append(f"steps[{index}] ({kind_of((news or olds)[0])})")
    if refused:
        raise IllegalTransition(
            f"cannot change {before.name} while it goes on: {'; '.join(refused)}: "
            "abort it and apply the document again"
        )
    return changed


def _why_not(
    old: tuple[Step, ...], new: tuple[Step, ...], index: int, before: Experiment, state: ExperimentState
) -> str:
    """Why a step cannot change, empty when it can."""
    is_begun = bool(state.live or state.removed)
    if is_begun and index < state.step:
        return "is over"
    if any(isinstance(step, BanditStep) for step in (*old, *new)):
        tolerances = {step.tolerance for step in (*old, *new) if isinstance(step, BanditStep)}
        if state.rivals and (len(tolerances) > 1 or not (old and new)):
            return "changes the tolerance, which restarts the evidence between candidates"
        if before.bandit is not None and not (old and new and type(old[0]) is type(new[0])) and is_begun:
            return "begins or ends a bandit, whose evidence between candidates began with the experiment"
    if not is_begun or index > state.step:
        return ""
    if not (old and new) or type(old[0]) is not type(new[0]):
        return "is the current one: its durations may change, its kind may not"
    if isinstance(old[0], SetWeightStep):
        return "is the current one: its weight waits for a gate that was asked about it"
    if isinstance(old[0], PromoteStep) and isinstance(new[0], PromoteStep):
        done = state.part + 1
        if old[0].weights[:done] != new[0].weights[:done]:
            return f"has reached weight {old[0].weights[state.part]:.0%}: what was reached cannot change"
    return ""
