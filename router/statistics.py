"""`ModelStatistics`, as Triton's clients read it: what one worker has counted of its variants since it began.

The numbers are those of the metrics' last report, a second old at most. Whoever wants those of the whole server asks its
metrics port.
"""

from __future__ import annotations

from anabranch.proto import open_inference_pb2 as pb
from anabranch.router.backends import Backends, LocalBackend
from anabranch.router.metrics.meter import Meters, VariantMeter
from anabranch.router.models import Models


def statistics_of(
    request: pb.ModelStatisticsRequest, models: Models, meters: Meters, backends: Backends
) -> pb.ModelStatisticsResponse:
    """The statistics of one variant, of a model's variants, or of everything.

    Args:
        request: Empty names ask for everything.
        models: What is served.
        meters: What was counted of it.
        backends: What runs it.

    Raises:
        UnknownModel: No such model or variant is served.
    """
    response = pb.ModelStatisticsResponse()
    if request.name:
        model, chosen = models.locate(request.name, request.version)
        asked = [(model.name, name) for name in ([chosen] if chosen else sorted(model.variants))]
    else:
        asked = [(model.name, name) for model in models for name in sorted(model.variants)]
    for name, variant in asked:
        _fill(response.model_stats.add(name=name, version=variant), meters[name][variant])
        backend = backends.get((name, variant))
        if isinstance(backend, LocalBackend):
            load = backend.load()
            found = response.model_stats[-1]
            # Copies included: Triton counts what ran, whoever asked.
            found.inference_count, found.execution_count = load.rows, load.batches
    return response


def _fill(found: pb.ModelStatistics, meter: VariantMeter) -> None:
    # Of a variant elsewhere only its server knows how requests were batched: each counts as one.
    found.inference_count = found.execution_count = meter.answered
    stats = found.inference_stats
    for duration, seconds in (
        (stats.success, meter.latency_s),
        (stats.queue, meter.queue_s),
        (stats.compute_infer, meter.compute_s),
    ):
        duration.count, duration.ns = meter.answered, round(1e9 * seconds)
    stats.fail.count = sum(meter.failed.values())
