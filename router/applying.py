"""What applying a document comes to, and how two documents differ."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from anabranch.bandit.spec import Experiment
from anabranch.bandit.verdicts import Outcome
from anabranch.store.document import parse
from anabranch.store.port import StoredExperiment
from anabranch.store.prices import completed
from anabranch.store.revisions import check_revision
from anabranch.store.second_on_model import second_on_model
from anabranch.variants.manifest import MANIFEST, Manifest, read_manifest


class Applied(StrEnum):
    """What applying a document does to an experiment."""

    CREATED = "created"
    CONFIGURED = "configured"
    REVISED = "asked to go on with this document"
    UNCHANGED = "unchanged"


def outcome_of(name: str, document: Mapping[str, Any], kept: Sequence[StoredExperiment]) -> Applied:
    """What applying the document does, given the experiments there are."""
    found = next((experiment for experiment in kept if experiment.name == name), None)
    if found is None:
        return Applied.CREATED
    if _same(found.document, document):
        return Applied.UNCHANGED
    return Applied.CONFIGURED if found.state.phase.is_over else Applied.REVISED


def priced(
    document: Mapping[str, Any], kept: Sequence[StoredExperiment], variants: Mapping[str, Manifest]
) -> dict[str, Any]:
    """The document with the prices that it asks for: of the same experiment while it goes on, else of the manifests.

    Args:
        document: One that can be parsed.
        kept: The experiments there are.
        variants: The manifests of the model's variants, by name, as far as they are known.
    """
    name = document["metadata"]["name"]
    going_on = [each for each in kept if each.name == name and not each.state.phase.is_over]
    applied = {key: price for each in going_on for key, price in _prices(each.document).items()}
    built = {
        key: manifest.hourly_price for key, manifest in variants.items() if manifest.hourly_price is not None
    }
    return completed(document, applied, built)


def built_variants(experiment: Experiment, models: Path) -> dict[str, Manifest]:
    """The manifests of an experiment's arms, of those that are in the folder of models."""
    folders = {name: models / experiment.model / name for name in experiment.arms}
    return {name: read_manifest(folder) for name, folder in folders.items() if (folder / MANIFEST).is_file()}


def check_applicable(
    experiment: Experiment, document: Mapping[str, Any], kept: Sequence[StoredExperiment]
) -> None:
    """Refuse what the store would refuse, without writing.

    Raises:
        Conflict: If the experiment is still going on, or its model has another one that is.
    """
    for other in kept:
        phase = other.state.phase
        if phase.is_over:
            continue
        if other.name == experiment.name and not _same(other.document, document):
            check_revision(parse(other.document), experiment, other.state)
        if other.name != experiment.name and parse(other.document).model == experiment.model:
            raise second_on_model(experiment.model, other.name, phase)


def stale_baseline(experiment: Experiment, outcome: Applied, promoted: str | None) -> str | None:
    """Why an experiment should not begin against another variant than the one that was promoted; None where it may.

    Its baseline would get all traffic at once, without a test, and lose it again at the end.

    Args:
        experiment: What is applied.
        outcome: What that does: what goes on is let go on.
        promoted: The model's baseline by promotion.
    """
    if promoted in (None, experiment.baseline) or outcome not in (Applied.CREATED, Applied.CONFIGURED):
        return None
    return (
        f"spec.baseline: {experiment.baseline} is not what serves {experiment.model} now, that is {promoted}, which was promoted: "
        "name it as the baseline, or take its promotion back with `anabranch undo`"
    )


def override_remark(failed: Iterable[str], stale: str | None) -> str:
    """What the audit log says of an application that was forced; empty where there was nothing to force.

    Args:
        failed: Candidates that the offline gate found worse.
        stale: What `stale_baseline` said.
    """
    gates = ", ".join(failed)
    found = [f"gate overridden for {gates}" if gates else "", "a baseline that was replaced" if stale else ""]
    return "; ".join(remark for remark in found if remark)


def failed_gates(experiment: Experiment, models: Path) -> dict[str, str]:
    """Candidates that the offline gate found worse than the reference, and the gate's sentence about each.

    Variants that are not built here have no verdict here: the server's own tick judges whether they are served.

    Args:
        experiment: What is applied.
        models: The folder of built variants.
    """
    return gate_failures(experiment, built_variants(experiment, models))


def gate_failures(experiment: Experiment, variants: Mapping[str, Manifest]) -> dict[str, str]:
    """Candidates that the offline gate found worse than the reference, and the gate's sentence about each.

    Args:
        experiment: What is applied.
        variants: The manifests of the model's variants, by name.
    """
    gates = {name: variants[name].gate for name in experiment.candidates if name in variants}
    return {
        name: gate.reason for name, gate in gates.items() if gate is not None and gate.outcome is Outcome.FAIL
    }


def unified(applied: Mapping[str, Any] | None, given: Mapping[str, Any], name: str, file: str) -> list[str]:
    """The unified difference from the applied document to the given one; empty when they are the same.

    Both are compared as values: comments, order of keys and layout do not count.
    """
    if applied is not None:
        # Prices that were taken from the manifests are no difference.
        given = completed(given, _prices(applied))
    before = [] if applied is None else _lines(applied)
    origin = "nothing applied" if applied is None else f"{name} (applied)"
    return list(difflib.unified_diff(before, _lines(given), origin, file, lineterm=""))


def _prices(document: Mapping[str, Any]) -> Mapping[str, float]:
    prices: Mapping[str, float] = document["spec"].get("hourlyPrices", {})
    return prices


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def _lines(document: Mapping[str, Any]) -> list[str]:
    # Keys of the applied document are sorted in the store: the given one is sorted likewise.
    return yaml.safe_dump(
        json.loads(json.dumps(document)), sort_keys=True, allow_unicode=True, width=200
    ).splitlines()
