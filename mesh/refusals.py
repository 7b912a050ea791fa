"""What an experiment may not ask of Envoy, with the reason: nothing is ignored in silence."""

from __future__ import annotations

from anabranch.bandit.spec import FIRST_TOKEN, PER_TOKEN, Experiment, MirrorStep
from anabranch.mesh.routes import Manifests
from anabranch.router.settings import Settings

_ROUTER = "serve this model with a router of Anabranch (`serve` without --dataplane envoy)"


def problems(experiment: Experiment) -> list[str]:
    """Why an experiment cannot run with Envoy as the data plane; empty when it can."""
    found = [
        f"steps[{number}] mirrors requests, and Envoy throws the copies' answers away instead of comparing them: "
        f"take the step out, or {_ROUTER}"
        for number, step in enumerate(experiment.steps)
        if isinstance(step, MirrorStep)
    ]
    for metric in experiment.metrics:
        if metric.source.startswith("mirror."):
            found.append(f"metric {metric.name} is measured on copies, which Envoy cannot compare: {_ROUTER}")
        if metric.source in (FIRST_TOKEN, PER_TOKEN):
            found.append(
                f"metric {metric.name} is measured on streamed tokens, which Envoy does not see: {_ROUTER}"
            )
    if (experiment.unit_metadata or "").endswith("-bin"):
        found.append(
            f"unit.metadata is {experiment.unit_metadata!r}, which Envoy sees in base64: name a text key"
        )
    return found


def access_problems(settings: Settings) -> list[str]:
    """What a server was told of who is let in, and Envoy would not hold."""
    found = []
    if settings.must_prove and settings.tls_client_ca is None:
        found.append(
            "callers of the inference port must prove who they are, and Envoy looks at certificates only, not at tokens: "
            f"give --tls-client-ca, or {_ROUTER}"
        )
    if settings.control_port is not None:
        found.append(
            f"a control port is asked for, and none is opened beside Envoy: ask the store itself (--store), or {_ROUTER}"
        )
    if settings.identities is not None:
        found.append(
            "identities are given, and Envoy gives every client that its authority knows the same rights: leave them out"
        )
    return found


def variant_problems(manifests: Manifests) -> list[str]:
    """Variants that Envoy cannot send requests to."""
    return [
        f"{model}/{name} runs in a process of Anabranch, and Envoy sends requests to servers only: serve it with a router, "
        f"and add that as a remote variant (`anabranch variants add-remote {model} NAME --target HOST:PORT "
        f"--remote-version {name}`)"
        for model, variants in manifests.items()
        for name, manifest in variants.items()
        if manifest.remote is None
    ]
