"""Refusal before traffic: variants must be served, have the same tensors, and a price where costs are asked for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from anabranch.bandit.costs import unpriced_text
from anabranch.bandit.spec import Experiment
from anabranch.variants.manifest import Manifest


def problems(experiment: Experiment, manifests: Mapping[str, Mapping[str, Manifest]]) -> list[str]:
    """Why an experiment cannot begin on what is served; empty when it can."""
    variants = manifests.get(experiment.model)
    if variants is None:
        return [_unknown("model", experiment.model, manifests)]
    missing = [name for name in experiment.arms if name not in variants]
    if missing:
        return [_unknown(f"variant of {experiment.model}", name, variants) for name in missing]
    unpriced = unpriced_text(experiment)
    found = [unpriced] if unpriced else []
    baseline = variants[experiment.baseline]
    for name in experiment.candidates:
        candidate = variants[name]
        for what in ("signatures", "outputs"):
            ours, theirs = getattr(candidate, what), getattr(baseline, what)
            if ours != theirs:
                found.append(f"{name} has {what} {ours}, the baseline {experiment.baseline} has {theirs}")
    return found


def _unknown(what: str, name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f", did you mean {near[0]}?" if near else ";"
    return f"no {what} {name!r} is served{hint} served are {', '.join(sorted(known)) or 'none'}"
