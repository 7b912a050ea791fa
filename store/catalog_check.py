"""A document against what is served: what the next tick would refuse, said before the document is applied."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from anabranch.bandit.costs import unpriced_text
from anabranch.bandit.spec import Experiment
from anabranch.store.ledger_port import Catalog


def catalog_problems(experiment: Experiment, catalog: Catalog) -> list[str]:
    """Why an experiment could not begin on what is served; empty when it can."""
    unpriced = unpriced_text(experiment)
    return [
        *_variant_problems(experiment, catalog),
        *([unpriced] if unpriced else []),
        *host_problems(experiment, catalog.webhook_hosts),
    ]


def host_problems(experiment: Experiment, allowed: Iterable[str]) -> list[str]:
    """Gates and notifications that go where the server may not send anything."""
    known = tuple(allowed)
    hooks = [(gate.name, gate.webhook) for gate in experiment.all_gates if gate.webhook is not None]
    hooks += [(each.name, each.webhook) for each in experiment.notifications]
    return [
        f"{name}: the server may not send to {host}: add it to ANABRANCH_WEBHOOK_HOSTS in the server's environment "
        f"(allowed are {', '.join(known) or 'none'})"
        for name, webhook in hooks
        if not is_allowed(host := urlsplit(webhook.url).hostname or "", known)
    ]


def is_allowed(host: str, allowed: Iterable[str]) -> bool:
    """Whether a host is one of those listed, or below one listed as `*.example.com`."""
    name = host.lower().rstrip(".")
    return any(
        name.endswith(pattern[1:].lower()) if pattern.startswith("*.") else name == pattern.lower()
        for pattern in allowed
    )


def _variant_problems(experiment: Experiment, catalog: Catalog) -> list[str]:
    variants = catalog.variants.get(experiment.model)
    if variants is None:
        return [f"spec.model: {_unknown(experiment.model, catalog.variants)}"]
    places = {"baseline": (experiment.baseline,), "candidates": experiment.candidates}
    missing = [
        f"spec.{place}: {_unknown(name, variants)}"
        for place, names in places.items()
        for name in names
        if name not in variants
    ]
    if experiment.baseline not in variants:
        return missing
    return missing + [
        f"spec.candidates: {name} takes and gives {variants[name]}, "
        f"the baseline {experiment.baseline} {variants[experiment.baseline]}"
        for name in experiment.candidates
        if name in variants and variants[name] != variants[experiment.baseline]
    ]


def _unknown(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f", did you mean {near[0]}?" if near else ";"
    return f"{name!r} is not served{hint} served are {', '.join(sorted(known)) or 'none'}"
