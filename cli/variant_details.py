"""One variant in words: what it is, what it was judged, and which layer costs what."""

from __future__ import annotations

from collections.abc import Iterator

from anabranch.cli.comparing import VariantDetails
from anabranch.cli.language_details import describe_generation
from anabranch.variants.manifest import Manifest

_SHOWN_LAYERS = 8


def describe_variant(details: VariantDetails) -> Iterator[str]:
    """The lines of `anabranch variants show`."""
    manifest = details.manifest
    yield f"{manifest.model}/{manifest.variant}"
    yield f"  runs on       {manifest.engine}, {manifest.device}"
    yield f"  recipe        {_settings(manifest)}"
    if details.formats:
        yield f"  linear layers {details.formats}"
    yield f"  size          {manifest.size_bytes / 1e6:.1f} MB in {len(manifest.files)} files, built in {manifest.build_s:.1f} s"
    yield from _measured(manifest)
    if manifest.generation is not None:
        yield from describe_generation(manifest.generation)
    if manifest.gate is not None:
        yield f"  offline gate  {manifest.gate.outcome}: {manifest.gate.reason}"
    if manifest.cold_ms is not None:
        yield f"  cold          {manifest.cold_ms:.0f} ms from opening the file to the first answer"
    if manifest.hourly_price is not None:
        yield f"  price         {manifest.hourly_price:g} an hour"
    for row in manifest.latency:
        yield f"  batch of {row.batch_size:<4} p50 {row.p50_ms:.2f} ms, p95 {row.p95_ms:.2f} ms ({row.calls} calls, {row.threads} thread)"
    if details.layers is not None:
        report = details.layers
        yield (
            f"  layers by the error that each adds alone (1 - cosine, {report.requests} requests; "
            f"together {report.together:.5f})"
        )
        for error in report.layers[:_SHOWN_LAYERS]:
            yield f"    {error.layer:<30} {error.number_format:<12} {error.distance:.6f}"
        rest = len(report.layers) - _SHOWN_LAYERS
        if rest > 0:
            yield f"    {rest} more, each at most {report.layers[_SHOWN_LAYERS].distance:.6f}"
    for name, version in manifest.tools.items():
        yield f"  built with    {name} {version}"


def _settings(manifest: Manifest) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in manifest.recipe.items() if key != "name")
    return str(manifest.recipe["name"]) + (f" ({settings})" if settings else "")


def _measured(manifest: Manifest) -> Iterator[str]:
    task, parity = manifest.task, manifest.parity
    if task is not None:
        yield f"  {task.name:<13} {task.value:.2%} [{task.low:.2%}, {task.high:.2%}] on {task.requests} requests"
    if parity is not None:
        yield f"  agreement     {parity.top1_agreement:.2%} with {parity.reference}"
        yield f"  {parity.cosine_tensor:<13} cosine {parity.cosine_mean:.5f}, least {parity.cosine_min:.5f}"
