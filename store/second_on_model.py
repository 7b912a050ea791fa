"""The refusal of a second experiment on a model, the same in every store and before asking one."""

from __future__ import annotations

from anabranch.bandit.lifecycle import Phase
from anabranch.store.port import Conflict

_FREED_BY = {
    Phase.PAUSED: "promote, resume or abort it",
    Phase.INCONCLUSIVE: "promote, retry or abort it",
}
"""By a phase that waits for a person, what a person can do; every other one ends by itself."""


def second_on_model(model: str, name: str, phase: Phase) -> Conflict:
    """The error that says which experiment holds the model and how the model becomes free.

    Args:
        model: The model that both name.
        name: The experiment that holds it.
        phase: Where that one stands; one that is over holds its model because it is about to be retried or undone.
    """
    standing = "about to be retried or undone" if phase.is_over else str(phase)
    freed_by = _FREED_BY.get(phase, "let it end or abort it")
    return Conflict(f"model {model} already has experiment {name}, which is {standing}: {freed_by}")
