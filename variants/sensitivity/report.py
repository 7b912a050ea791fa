"""The error that every layer of a reduced graph adds by itself, and the file beside the manifest that keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import pydantic

from anabranch.variants.errors import ManifestError
from anabranch.variants.formats import NumberFormat
from anabranch.variants.graph_formats import graph_formats
from anabranch.variants.measure import compare
from anabranch.variants.models import PreparedModel
from anabranch.variants.quantize.static import LinearLayer, linear_layers
from anabranch.variants.sensitivity.switches import SwitchedModel
from anabranch.variants.tensors import Array

LAYERS = "layers.json"
# One layer's error is a mean over requests: these many tell layers apart, and cost seconds.
REPORT_REQUESTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """What reducing one layer, and no other, does to the answers.

    Args:
        layer: The layer's name.
        number_format: What it is reduced to.
        distance: Mean of 1 - cosine between the answers' directions and the reference's.
        changed: Share of requests whose largest output is another one.
    """

    layer: str
    number_format: NumberFormat
    distance: float
    changed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """Every layer's error, the largest first.

    Args:
        requests: How many requests were compared.
        together: `distance` with all layers reduced.
        layers: One entry a layer.
    """

    requests: int
    together: float
    layers: tuple[LayerError, ...]


_CODEC = pydantic.TypeAdapter(LayerReport)


def measure_layers(model: PreparedModel, reduced: onnx.ModelProto, *, threads: int) -> LayerReport | None:
    """Switch every reduced layer on alone.

    Args:
        model: The reference, and requests that do not judge variants: those that trained or calibrated it.
        reduced: A graph built of the reference, with the same weights before they were reduced.
        threads: Threads that share a call's work.

    Returns:
        The report; None where no layer is reduced, or there are no requests.

    Raises:
        BuildError: A layer of the reference is not found in the reduced graph.
    """
    requests = (model.training or model.calibration)[:REPORT_REQUESTS]
    layers = reduced_layers(model, reduced)
    if not requests or not layers:
        return None
    switched = SwitchedModel(
        model.graph, reduced, [layer for layer, _ in layers], probe=model.probe, threads=threads
    )
    reference = switched.run(requests, ())
    errors = [
        _error(model, reference, switched.run(requests, {layer.node}), layer, number_format)
        for layer, number_format in layers
    ]
    everything = switched.run(requests, {layer.node for layer, _ in layers})
    return LayerReport(
        requests=len(requests),
        together=_compare(model, reference, everything)[0],
        layers=tuple(sorted(errors, key=lambda error: -error.distance)),
    )


def reduced_layers(model: PreparedModel, reduced: onnx.ModelProto) -> list[tuple[LinearLayer, NumberFormat]]:
    """The layers that are not in full precision any more, and their formats."""
    layers = linear_layers(model.graph, model.keep)
    formats = graph_formats(reduced, model.graph, layers)
    return [(layer, formats[layer.node]) for layer in layers if formats[layer.node] is not NumberFormat.FP32]


def _error(
    model: PreparedModel,
    reference: Mapping[str, Array],
    outputs: Mapping[str, Array],
    layer: LinearLayer,
    number_format: NumberFormat,
) -> LayerError:
    distance, changed = _compare(model, reference, outputs)
    return LayerError(layer=layer.node, number_format=number_format, distance=distance, changed=changed)


def _compare(
    model: PreparedModel, reference: Mapping[str, Array], outputs: Mapping[str, Array]
) -> tuple[float, float]:
    names = [output.name for output in model.outputs]
    parity = compare(reference, outputs, outputs=names, cosine_tensor=model.probe, reference_name="full")
    return max(0.0, 1.0 - parity.cosine_mean), 1.0 - parity.top1_agreement


def save_report(report: LayerReport, folder: Path) -> None:
    """Write the report into the variant's folder."""
    (folder / LAYERS).write_bytes(_CODEC.dump_json(report, indent=2) + b"\n")


def load_report(folder: Path) -> LayerReport | None:
    """Read a variant's report; None where none was made.

    Raises:
        ManifestError: The file is unreadable.
    """
    path = folder / LAYERS
    if not path.is_file():
        return None
    try:
        return _CODEC.validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        raise ManifestError(f"{path} is no report of layers: {error}") from error


def ranking(report: LayerReport) -> Sequence[str]:
    """The layers, the most costly first."""
    return [error.layer for error in report.layers]
