"""Choose fixed ranges for activations from what real requests show: min-max, percentile, or true KL.

ONNX Runtime's own entropy calibrator compares 128 bins with 128 levels, so that its only candidate is the whole range:
it is min-max in effect. The search here has 2048 bins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from anabranch.variants.errors import BuildError
from anabranch.variants.onnx_graphs import with_extra_outputs
from anabranch.variants.recipes import Calibration
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.tensors import Request

BINS = 2048
# Levels of the magnitude in a signed byte.
_LEVELS = 128
# Every 8th bin is a candidate threshold: 240 of them; a finer search moves a threshold by less than 0.4 % of the range.
_STRIDE = 8
_PERCENTILE = 99.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What calibration saw of one tensor.

    Args:
        low: Smallest value.
        high: Largest value.
        counts: Histogram of magnitudes over [0, max(|low|, |high|)], `BINS` equal bins.
    """

    low: float
    high: float
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The values that the levels of a quantized tensor span; zero is always among them."""

    low: float
    high: float


def observe(
    model: onnx.ModelProto, tensors: Sequence[str], requests: Sequence[Request]
) -> dict[str, Observed]:
    """Run the requests one by one, so that no padding is counted, and record the named tensors.

    Two passes over the requests keep the memory small: ranges first, then histograms.

    Raises:
        BuildError: There are no requests.
    """
    if not requests:
        raise BuildError("static quantization needs calibration requests, got 0: give the model samples")
    session = OnnxSession(with_extra_outputs(model, tensors), threads=1)
    low = dict.fromkeys(tensors, 0.0)
    high = dict.fromkeys(tensors, 0.0)
    for request in requests:
        # A layer may read an input of the graph directly.
        outputs = {**request, **session.run(request)}
        for tensor in tensors:
            low[tensor] = min(low[tensor], float(outputs[tensor].min()))
            high[tensor] = max(high[tensor], float(outputs[tensor].max()))
    counts = {tensor: np.zeros(BINS, np.int64) for tensor in tensors}
    for request in requests:
        # A layer may read an input of the graph directly.
        outputs = {**request, **session.run(request)}
        for tensor in tensors:
            top = max(-low[tensor], high[tensor]) or 1.0
            counts[tensor] += np.histogram(np.abs(outputs[tensor]), bins=BINS, range=(0.0, top))[0]
    return {tensor: Observed(low=low[tensor], high=high[tensor], counts=counts[tensor]) for tensor in tensors}


def choose_ranges(observed: Mapping[str, Observed], calibration: Calibration) -> dict[str, Range]:
    """The range of every observed tensor."""
    return {tensor: _choose(seen, calibration) for tensor, seen in observed.items()}


def _choose(seen: Observed, calibration: Calibration) -> Range:
    top = max(-seen.low, seen.high)
    match calibration:
        case Calibration.MINMAX:
            threshold = top
        case Calibration.PERCENTILE:
            share = np.cumsum(seen.counts) / max(int(seen.counts.sum()), 1)
            threshold = top * (int(np.searchsorted(share, _PERCENTILE / 100)) + 1) / BINS
        case Calibration.KL:
            threshold = top * kl_threshold(seen.counts) / BINS
    return Range(low=max(seen.low, -threshold), high=min(seen.high, threshold))


def kl_threshold(counts: NDArray[np.int64]) -> int:
    """How many of the bins to keep so that 128 levels lose the least information.

    For every candidate the kept bins, with everything beyond them piled on the last, are compared with the same bins
    after rounding to 128 levels.

    Args:
        counts: Histogram of magnitudes, shape (bins,), bins > 128.

    Returns:
        A number of bins in [128, len(counts)].

    Source:
        Migacz 2017, 8-bit Inference with TensorRT (GTC), "Entropy calibration".
    """
    bins = len(counts)
    best, best_divergence = bins, np.inf
    for kept in range(_LEVELS, bins + 1, _STRIDE):
        inside = counts[:kept].astype(np.float64)
        reference = inside.copy()
        reference[-1] += counts[kept:].sum()
        rounded = _round_to_levels(inside, reference > 0)
        divergence = _divergence(reference, rounded)
        if divergence < best_divergence:
            best, best_divergence = kept, divergence
    return best


def _round_to_levels(inside: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Merge the bins into 128 levels and spread each level evenly over its bins that were not empty."""
    edges = np.arange(_LEVELS) * len(inside) // _LEVELS
    mass = np.add.reduceat(inside, edges)
    occupied = np.add.reduceat(present.astype(np.float64), edges)
    share = np.divide(mass, occupied, out=np.zeros_like(mass), where=occupied > 0)
    return np.where(present, np.repeat(share, np.diff(np.append(edges, len(inside)))), 0.0)


def _divergence(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """KL(reference || other) of two histograms; a bin that `other` lost entirely costs a small floor's worth."""
    total, other_total = reference.sum(), other.sum()
    if total == 0 or other_total == 0:
        return float("inf")
    here = reference > 0
    p = reference[here] / total
    q = np.maximum(other[here] / other_total, 1e-12)
    return float((p * np.log(p / q)).sum())
