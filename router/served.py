"""What a server serves: who is the baseline of each model, and whether what is there now may replace what was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from anabranch.bandit.lifecycle import Phase
from anabranch.router.admission import problems
from anabranch.router.models import default_baseline
from anabranch.store.document import parse
from anabranch.store.port import Store, StoredExperiment
from anabranch.variants.manifest import Manifest

Manifests = Mapping[str, Mapping[str, Manifest]]
"""By model and variant."""


def baselines_of(given: Mapping[str, str], manifests: Manifests) -> dict[str, str]:
    """By model, what serves until a promotion says otherwise.

    Args:
        given: What a person chose, by model; of the others, the reference serves.
        manifests: What there is.

    Raises:
        LookupError: If what was given is not there, or the reference of a model is not known.
    """
    for model, variant in given.items():
        if model not in manifests:
            raise LookupError(
                f"baseline given for {model!r}; served models are {', '.join(sorted(manifests))}"
            )
        if variant not in manifests[model]:
            raise LookupError(
                f"{model} has no variant {variant!r} to be its baseline; there are {', '.join(sorted(manifests[model]))}"
            )
    return {model: given.get(model) or default_baseline(variants) for model, variants in manifests.items()}


def check_promotions(store: Store, manifests: Manifests, folder: Path) -> None:
    """See that every promoted baseline is there.

    Raises:
        LookupError: If one is not.
    """
    for model, variants in manifests.items():
        promoted = store.baseline(model)
        if promoted is not None and promoted not in variants:
            raise LookupError(
                f"{promoted} was promoted to the baseline of {model}, but is not in {folder}: "
                "build it again, or take the promotion back with `anabranch undo`"
            )


def reload_problems(experiments: Iterable[StoredExperiment], old: Manifests, new: Manifests) -> list[str]:
    """Why running experiments could not go on with what would be served; empty when they can.

    Args:
        experiments: All there are.
        old: What is served.
        new: What would be.
    """
    found: list[str] = []
    for kept in experiments:
        if kept.state.phase.is_over or kept.state.phase is Phase.PENDING:
            continue
        experiment = parse(kept.document)
        if missing := problems(experiment, new):
            found += [f"experiment {kept.name} is running: {problem}" for problem in missing]
            continue
        model = experiment.model
        found += [
            f"experiment {kept.name} is running, and the files of {model}/{arm} have changed: "
            "abort it first, or build under another name"
            for arm in experiment.arms
            if arm in old.get(model, {}) and old[model][arm].files != new[model][arm].files
        ]
    return found
