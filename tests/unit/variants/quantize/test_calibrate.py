import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.variants.errors import BuildError
from anabranch.variants.models import PreparedModel
from anabranch.variants.onnx_graphs import with_extra_outputs
from anabranch.variants.quantize.calibrate import BINS, Observed, choose_ranges, kl_threshold, observe
from anabranch.variants.recipes import Calibration
from anabranch.variants.sessions import OnnxSession


def _histogram(values: np.ndarray) -> np.ndarray:
    return np.histogram(np.abs(values), bins=BINS, range=(0.0, float(np.abs(values).max())))[0]


def _seen(values: np.ndarray) -> dict[str, Observed]:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return {"x": Observed(low=low, high=high, counts=_histogram(values))}


def test_minmax_keeps_everything() -> None:
    span = choose_ranges(_seen(np.array([-2.0, 0.5, 3.0])), Calibration.MINMAX)["x"]
    assert (span.low, span.high) == (-2.0, 3.0)


def test_percentile_drops_a_far_outlier_and_minmax_does_not() -> None:
    values = np.append(np.random.default_rng(0).uniform(-1, 1, 200_000), 50.0)
    assert choose_ranges(_seen(values), Calibration.MINMAX)["x"].high == 50.0
    assert choose_ranges(_seen(values), Calibration.PERCENTILE)["x"].high < 1.1


def test_kl_clips_the_tail_of_a_heavy_tailed_tensor() -> None:
    values = np.random.default_rng(1).laplace(size=200_000)
    top = float(np.abs(values).max())
    span = choose_ranges(_seen(values), Calibration.KL)["x"]
    assert 0.1 * top < span.high < 0.9 * top


def test_kl_keeps_the_whole_range_of_evenly_spread_values() -> None:
    assert kl_threshold(np.full(BINS, 100)) >= BINS - 16


def test_a_range_never_leaves_what_was_seen() -> None:
    values = np.random.default_rng(2).exponential(size=10_000) - 0.1
    for calibration in Calibration:
        span = choose_ranges(_seen(values), calibration)["x"]
        assert values.min() <= span.low <= 0 <= span.high <= values.max()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 1_000), min_size=256, max_size=600).filter(any))
def test_a_threshold_is_always_within_the_histogram(counts: list[int]) -> None:
    assert 128 <= kl_threshold(np.array(counts)) <= len(counts)


def test_observed_extremes_and_counts_are_those_of_the_tensors(tiny_encoder: PreparedModel) -> None:
    tensor = "layer.1.feedforward.gelu"
    requests = tiny_encoder.calibration[:5]
    seen = observe(tiny_encoder.graph, [tensor], requests)[tensor]
    session = OnnxSession(with_extra_outputs(tiny_encoder.graph, [tensor]))
    values = np.concatenate([session.run(request)[tensor].ravel() for request in requests])
    assert seen.high == pytest.approx(float(values.max()))
    assert seen.low == pytest.approx(float(values.min()))
    assert seen.counts.sum() == values.size


def test_no_requests_are_refused(tiny_encoder: PreparedModel) -> None:
    with pytest.raises(BuildError, match="got 0"):
        observe(tiny_encoder.graph, ["embedding"], [])
