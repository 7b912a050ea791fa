"""Experiments as lines of a list, from what was written, by the standard library alone: equal to `cli.row_views`.

A list is what people ask for most. Its few facts stand in the stored document and state as they are, so nothing needs to be
checked or computed again, and neither NumPy nor pydantic is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anabranch.bandit.lifecycle import Phase
from anabranch.cli.numbers import duration, share
from anabranch.cli.view_types import ExperimentRow
from anabranch.store.durations import seconds
from anabranch.store.sqlite_reader import Glance


def glanced_row(glance: Glance, now: float) -> ExperimentRow:
    """One line of the list.

    Args:
        glance: What is kept.
        now: Seconds since 1970.

    Raises:
        ValueError, KeyError, TypeError: If it is damaged.
    """
    asked, state = glance.document["spec"], glance.state
    steps, candidates = asked["steps"], asked["candidates"]
    phase = Phase(state["phase"])
    begun = phase is not Phase.PENDING
    going = begun and not phase.is_over and phase is not Phase.INCONCLUSIVE
    inside = state["step"] < len(steps)
    return ExperimentRow(
        name=glance.name,
        model=asked["model"],
        phase=phase,
        step=min(state["step"] + 1, len(steps)) if begun else 0,
        steps=len(steps),
        step_name=_title(steps[state["step"]]) if begun and inside else "",
        step_elapsed_s=max(0.0, now - state["step_started_s"]) if going else None,
        weights={arm: weight for arm, weight in state["weights"].items() if weight > 0},
        live=len(state["live"]) if begun else len(candidates),
        candidates=len(candidates),
        winner=state["winner"],
        age_s=max(0.0, now - glance.applied_s),
    )


def _title(step: Mapping[str, Any]) -> str:
    """See `step_views.title`; a step is a mapping with one key."""
    ((kind, asked),) = step.items()
    match kind:
        case "mirror":
            return f"mirror {share(float(asked['percent']) / 100)}"
        case "setWeight":
            return f"setWeight {share(float(asked) / 100)}"
        case "pause":
            lasts = (asked or {}).get("duration")
            return "pause" if lasts is None else f"pause {duration(seconds(lasts))}"
        case "gate":
            return f"gate {asked['name']}"
        case _:
            return str(kind)
