"""What is known of built variants, side by side: size, quality, time, and which of them nothing beats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from rich.table import Table

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, did_you_mean
from anabranch.router.models import find_manifests
from anabranch.variants.errors import ManifestError
from anabranch.variants.formats import count_formats
from anabranch.variants.manifest import Manifest, wilson_interval
from anabranch.variants.sensitivity.report import LayerReport, load_report


class Quality(StrEnum):
    """What stands for how good a variant's answers are."""

    ACCURACY = "accuracy"
    AGREEMENT = "agreement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One variant on the plane of quality and latency.

    Attributes:
        quality: Accuracy where labels are known, else agreement with the reference; a share.
        low: Lower end of its 95 % interval.
        high: Upper end.
        latency_ms: Median time of one call.
        p95_ms: The time within which 95 % of them are.
        is_best: Whether no other variant is at least as good in both, and better in one.
        hourly_price: Of its hardware, where the manifest says it.
    """

    variant: str
    quality: float
    low: float
    high: float
    latency_ms: float
    p95_ms: float
    size_bytes: int
    is_best: bool
    hourly_price: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Variants of one model, fastest first.

    Attributes:
        batch_size: Requests a call.
        unmeasured: Variants without a measured quality or latency.
    """

    model: str
    quality: Quality
    batch_size: int
    points: tuple[Point, ...]
    unmeasured: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantDetails:
    """Everything that is kept of one variant."""

    manifest: Manifest
    formats: str
    layers: LayerReport | None


def manifests_of(models: Path, model: str) -> dict[str, Manifest]:
    """The variants of one model; of the only one, when none is named."""
    try:
        found = find_manifests(models)
    except (FileNotFoundError, ManifestError) as error:
        raise CommandFailed(ExitCode.NOT_FOUND, str(error)) from error
    if not model and len(found) == 1:
        return next(iter(found.values()))
    if model not in found:
        known = ", ".join(sorted(found))
        if not model:
            raise CommandFailed(ExitCode.BAD_INPUT, f"there are several models: {known}", "name one of them")
        raise CommandFailed(
            ExitCode.NOT_FOUND, f"no model {model!r}{did_you_mean(model, found)}", f"there are: {known}"
        )
    return found[model]


def details(models: Path, model: str, variant: str) -> VariantDetails:
    """One variant."""
    manifests = manifests_of(models, model)
    if variant not in manifests:
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"model {model} has no variant {variant!r}{did_you_mean(variant, manifests)}",
            f"there are: {', '.join(sorted(manifests))}",
        )
    manifest = manifests[variant]
    return VariantDetails(
        manifest=manifest,
        formats=count_formats(manifest.formats),
        layers=load_report(models / model / variant),
    )


def compare_variants(manifests: Sequence[Manifest], batch_size: int) -> Comparison:
    """Put measured variants on the plane of quality and latency.

    Args:
        manifests: Variants of one model, at least one.
        batch_size: Requests a call, one of those that were measured.
    """
    quality = (
        Quality.ACCURACY
        if any(manifest.task for manifest in manifests) and _all_labelled(manifests)
        else Quality.AGREEMENT
    )
    placed = {manifest.variant: _place(manifest, quality, batch_size) for manifest in manifests}
    points = [point for point in placed.values() if point is not None]
    if not points:
        sizes = sorted({row.batch_size for manifest in manifests for row in manifest.latency})
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"no variant was measured with batches of {batch_size}",
            f"measured: {', '.join(map(str, sizes)) or 'none; give `anabranch build` real --samples'}",
        )
    return Comparison(
        model=manifests[0].model,
        quality=quality,
        batch_size=batch_size,
        points=tuple(sorted(_marked(points), key=lambda point: point.latency_ms)),
        unmeasured=tuple(name for name, point in placed.items() if point is None),
    )


def cost_per_1k(point: Point, batch_size: int, hourly_price: float) -> float:
    """The price of 1,000 requests, in the currency of the price.

    Args:
        point: A measured variant.
        batch_size: Requests of the call that was measured.
        hourly_price: Of what answers one call at a time, without a pause: a core or a GPU.
    """
    hours_per_call = point.latency_ms / 3.6e6
    return 1_000 / batch_size * hours_per_call * hourly_price


def costs_of(comparison: Comparison, hourly_price: float | None) -> dict[str, float]:
    """What 1,000 requests of each variant cost; empty where somebody's price is not known.

    Args:
        comparison: From `compare_variants`.
        hourly_price: Of those whose manifest says none.
    """
    costs: dict[str, float] = {}
    for point in comparison.points:
        price = hourly_price if point.hourly_price is None else point.hourly_price
        if price is None:
            return {}
        costs[point.variant] = cost_per_1k(point, comparison.batch_size, price)
    return costs


def _all_labelled(manifests: Iterable[Manifest]) -> bool:
    """Whether every variant that was compared at all was compared with labels."""
    return all(manifest.task for manifest in manifests if manifest.parity)


def _place(manifest: Manifest, quality: Quality, batch_size: int) -> Point | None:
    row = next((row for row in manifest.latency if row.batch_size == batch_size), None)
    measured = _quality(manifest, quality)
    if row is None or measured is None:
        return None
    value, low, high = measured
    return Point(
        variant=manifest.variant,
        quality=value,
        low=low,
        high=high,
        latency_ms=row.p50_ms,
        p95_ms=row.p95_ms,
        size_bytes=manifest.size_bytes,
        is_best=False,
        hourly_price=manifest.hourly_price,
    )


def _quality(manifest: Manifest, quality: Quality) -> tuple[float, float, float] | None:
    match quality:
        case Quality.ACCURACY:
            task = manifest.task
            return (task.value, task.low, task.high) if task else None
        case Quality.AGREEMENT:
            parity = manifest.parity
            if parity is None:
                return None
            same = round(parity.top1_agreement * parity.requests)
            return (parity.top1_agreement, *wilson_interval(same, parity.requests))


def _marked(points: Sequence[Point]) -> list[Point]:
    return [replace(point, is_best=not any(_beats(other, point) for other in points)) for point in points]


def _beats(other: Point, point: Point) -> bool:
    no_worse = other.quality >= point.quality and other.latency_ms <= point.latency_ms
    return no_worse and (other.quality > point.quality or other.latency_ms < point.latency_ms)


def comparison_table(comparison: Comparison, hourly_price: float | None = None) -> Table:
    """One row a variant, the fastest first; a star where nothing beats it.

    Args:
        comparison: From `compare_variants`.
        hourly_price: Of those whose manifest says none; where a price is missing, there is no column of costs.
    """
    costs = costs_of(comparison, hourly_price)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("VARIANT", no_wrap=True)
    heads = (
        "BEST",
        comparison.quality.upper(),
        "95 % INTERVAL",
        f"P50 BATCH {comparison.batch_size}",
        "TIMES",
        "SIZE",
        *(("COST OF 1,000",) if costs else ()),
    )
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    slowest = comparison.points[-1].latency_ms
    for point in comparison.points:
        table.add_row(
            point.variant,
            "*" if point.is_best else "",
            f"{point.quality:.1%}",
            f"[{point.low:.1%}, {point.high:.1%}]",
            f"{point.latency_ms:.2f} ms",
            f"{slowest / point.latency_ms:.2f}",
            f"{point.size_bytes / 1e6:.1f} MB",
            *((f"{costs[point.variant]:.4g}",) if costs else ()),
        )
    return table
