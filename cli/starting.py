"""Write the first experiment document for a model, from what its variants' manifests say: commented, and valid as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, did_you_mean
from anabranch.cli.offline import Offline
from anabranch.store.document import parse, read_document

_LEAST_AGREEMENT = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a document begins from.

    Attributes:
        candidates: In the order in which they are written.
        left_out: Variants that are no candidates, and why.
        name: Of the experiment.
        has_labels: Whether clients send feedback of the right answer.
        unit: Request metadata key that names the unit; empty when every request is its own.
    """

    model: str
    baseline: str
    candidates: tuple[str, ...]
    left_out: Mapping[str, str]
    name: str
    has_labels: bool
    unit: str


def choose(
    model: str,
    known: Mapping[str, Offline],
    *,
    reference: str = "",
    baseline: str = "",
    candidates: Sequence[str] = (),
    name: str = "",
    has_labels: bool = False,
    unit: str = "",
) -> Start:
    """Decide who is compared: the reference, against what passed the offline gate.

    Args:
        model: What clients call.
        known: Of its variants.
        reference: Who serves without an experiment; empty where nothing says so.
        baseline: Whom the person wants for the baseline; empty means the reference.
        candidates: Whom the person wants to compare; empty means every one.
        name: Of the experiment; empty means one made of the others.
        has_labels: Whether clients send feedback of the right answer.
        unit: See `Start`.

    Raises:
        CommandFailed: If a variant is not there, or nothing is left to compare.
    """
    for given in (*([baseline] if baseline else []), *candidates):
        if given not in known:
            raise CommandFailed(
                ExitCode.NOT_FOUND,
                f"model {model} has no variant {given!r}; there are: {', '.join(known)}{did_you_mean(given, known)}",
            )
    reference = baseline or reference or _reference(model, known)
    left_out: dict[str, str] = {}
    chosen = list(candidates)
    for variant, offline in known.items() if not candidates else ():
        if variant == reference:
            continue
        if offline.failed:
            left_out[variant] = offline.gate_reason
        else:
            chosen.append(variant)
    if reference in chosen:
        raise CommandFailed(ExitCode.BAD_INPUT, f"{reference} is the baseline, so it cannot be a candidate")
    if not chosen:
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"model {model} has no candidate beside {reference}"
            + "".join(f"\n  {variant} failed the offline gate: {why}" for variant, why in left_out.items()),
            f"build more with `anabranch build`: `anabranch build --list-recipes` says which run here, for {model}",
        )
    return Start(
        model=model,
        baseline=reference,
        candidates=tuple(chosen),
        left_out=left_out,
        name=name or _name(model, chosen),
        has_labels=has_labels,
        unit=unit,
    )


def document_text(start: Start, known: Mapping[str, Offline]) -> str:
    """The document, with a reason beside every number.

    It is parsed before it is given away: what this returns, `apply` accepts.
    """
    generates = any(known[name].generates for name in (start.baseline, *start.candidates))
    agreement, why_agreement = _agreement(start, known)
    latency = _latency(start, known)
    lines = [
        f"# An experiment on {start.model}. Check it with `anabranch apply -f FILE --dry-run`, ask how long it takes with",
        "# `anabranch plan FILE --rate REQUESTS_A_SECOND`; `anabranch schema` lists every field.",
        "apiVersion: anabranch/v1",
        "kind: Experiment",
        f"metadata: {{name: {start.name}}}",
        "spec:",
        f"  model: {start.model}",
        f"  baseline: {start.baseline}",
        "  candidates:",
        *(f"    - {name}{_told(known[name])}" for name in start.candidates),
        *(
            f"  # {name} is left out: it failed the offline gate ({why})"
            for name, why in start.left_out.items()
        ),
        *_unit(start.unit),
        "  metrics:",
        f"    # Chosen by: the candidate must be proven faster than the baseline.{latency}",
        *(
            ["    - {name: speed, source: tpot_ms, role: objective, statistic: p95, direction: min}"]
            if generates
            else [
                "    - {name: latency, source: latency_ms, role: objective, statistic: p95, direction: min}"
            ]
        ),
        f"    # Same class as the baseline on copied requests. {why_agreement}",
        f"    - {{name: fidelity, source: mirror.top1_agreement, role: guardrail, min: {agreement:g}}}",
        "    # At most one request in a hundred may fail; a failure is masked by the baseline, and counted.",
        "    - {name: errors, source: error, role: guardrail, max: 0.01}",
        *_accuracy(has_labels=start.has_labels),
        "  delta: 0.05            # probability that a wrong candidate is promoted, for the whole experiment",
        "  rollbackDelta: 0.01    # probability that any sound candidate is removed",
        "  steps:",
        "    # Copies first: no user sees a candidate's answer yet.",
        "    - mirror: {percent: 20, until: {fidelity: decided}, maxDuration: 1h}",
        f"    - setWeight: {_first_weight(start)}            # of the traffic, for each candidate",
        "    - analysis: {minDuration: 5m, maxDuration: 2h}   # until every guardrail is decided",
        "    # Traffic moves to the best; it ends when one is proven better than the others.",
        "    - bandit: {maxWeight: 50, minProb: 0.02, updatePeriod: 1m, minDuration: 10m, maxDuration: 6h}",
        "    # Back by `anabranch undo` at any time in the bake.",
        "    - promote: {steps: [75, 100], interval: 5m, bake: 30m}",
        "  onNoData: hold         # unknown means hold",
    ]
    text = "\n".join(lines) + "\n"
    parse(read_document(text))
    return text


def _reference(model: str, known: Mapping[str, Offline]) -> str:
    """The file as it was given.

    Raises:
        CommandFailed: If the variants do not say.
    """
    given = [name for name, offline in known.items() if offline.is_as_given]
    if len(given) == 1:
        return given[0]
    raise CommandFailed(
        ExitCode.BAD_INPUT,
        f"which variant of {model} is the baseline? There are: {', '.join(known)}",
        "say so with --baseline VARIANT",
    )


def _name(model: str, candidates: Sequence[str]) -> str:
    """A name that a document allows: lower case, no blanks."""
    base = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in model.lower()).strip(
        ".-"
    )
    first = candidates[0].rpartition("onnx-")[2] if len(candidates) == 1 else "variants"
    return f"{base or 'model'}-{first}"[:63].strip(".-")


def _told(offline: Offline) -> str:
    parts = []
    if offline.agreement is not None:
        parts.append(f"agrees with the reference on {offline.agreement:.1%}")
    if offline.latency_ms is not None:
        parts.append(f"{offline.latency_ms:.3g} ms a call")
    if offline.gate:
        parts.append(f"offline gate {offline.gate}")
    return f"    # offline: {', '.join(parts)}" if parts else ""


def _agreement(start: Start, known: Mapping[str, Offline]) -> tuple[float, str]:
    """The least agreement to ask for: below what was measured, so that a sound candidate can prove it."""
    measured = {
        name: agreement
        for name in start.candidates
        if (agreement := known[name].agreement) is not None and known[name].compared
    }
    if not measured:
        return (
            0.95,
            "Nothing was measured at build time: build with --samples, or set what your users would notice.",
        )
    # Half as many differences again, and never more than one in five.
    weakest = min(measured, key=lambda name: measured[name])
    least = max(_LEAST_AGREEMENT, min(0.99, 1.0 - 1.5 * (1.0 - measured[weakest]) - 0.005))
    floored = math.floor(least * 200) / 200
    return floored, (
        f"Measured offline: {measured[weakest]:.1%} of {known[weakest].compared:,} requests for {weakest}, the weakest; "
        "the limit leaves room for half as many differences again."
    )


def _latency(start: Start, known: Mapping[str, Offline]) -> str:
    base = known[start.baseline].latency_ms
    return "" if base is None else f" The baseline takes {base:.3g} ms a call offline."


def _first_weight(start: Start) -> int:
    return max(1, min(5, 50 // len(start.candidates)))


def _unit(unit: str) -> list[str]:
    if unit:
        return [
            f"  unit: {{metadata: {unit}}}   # a unit stays with its variant; its first request is evidence"
        ]
    return [
        "  # unit: {metadata: x-user-id}   # without it every request is assigned by itself, which decides soonest"
    ]


def _accuracy(*, has_labels: bool) -> list[str]:
    line = "- {name: accuracy, source: feedback.correct, role: guardrail, nonInferiorityMargin: 0.02}"
    why = "At most two points fewer right answers than the baseline; needs the true class, sent as feedback (docs/protocol.md)."
    if has_labels:
        return [f"    # {why}", f"    {line}"]
    return [
        f"    # {why}",
        "    # Without feedback it would never be decided, so it is left out:",
        f"    # {line}",
    ]
