from collections.abc import Mapping

import numpy as np
import pytest

from anabranch.variants.measure import accuracy, compare, latencies, run_all
from anabranch.variants.tensors import Array, Request


class Echo:
    """Gives the sum of each row's ids back, and remembers the shapes of its calls."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        ids = feeds["input_ids"]
        self.shapes.append(ids.shape)
        return {"sum": (ids * feeds["attention_mask"]).sum(axis=1, keepdims=True)}


def _requests(lengths: list[int]) -> list[Request]:
    rng = np.random.default_rng(0)
    made: list[Request] = []
    for length in lengths:
        ids = rng.integers(1, 100, (1, length))
        made.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    return made


def test_outputs_come_in_the_order_of_the_requests() -> None:
    requests = _requests([9, 3, 7, 3, 50, 1] * 12)
    expected = [int(request["input_ids"].sum()) for request in requests]
    assert run_all(Echo(), requests)["sum"].ravel().tolist() == expected


def test_rows_of_similar_length_share_a_call() -> None:
    session = Echo()
    run_all(session, _requests([4, 100] * 16))
    assert sorted(session.shapes) == [(16, 4), (16, 100)]


def test_a_variant_equals_itself() -> None:
    outputs = {"y": np.array([[1.0, 2.0], [0.0, 0.0]])}
    parity = compare(outputs, outputs, outputs=["y"], cosine_tensor="y", reference_name="r")
    measured = (parity.max_abs, parity.top1_agreement, parity.cosine_mean, parity.cosine_min)
    assert measured == pytest.approx((0, 1, 1, 1), abs=1e-12)


def test_distance_is_the_largest_difference_share_of_flips_and_cosine() -> None:
    reference = {"y": np.array([[1.0, 0.0], [0.0, 1.0]])}
    candidate = {"y": np.array([[0.0, 1.0], [0.0, 2.0]])}
    parity = compare(reference, candidate, outputs=["y"], cosine_tensor="y", reference_name="r")
    assert parity.max_abs == 1.0
    assert parity.top1_agreement == 0.5
    assert parity.cosine_mean == pytest.approx(0.5)
    assert parity.cosine_min == pytest.approx(0.0)


def test_answers_without_scores_agree_where_they_are_equal() -> None:
    reference = {"label": np.array([3, 1, 2, 0]), "distance": np.array([[0.5], [0.25], [1.0], [2.0]])}
    candidate = {"label": np.array([3, 2, 2, 0]), "distance": np.array([[0.5], [0.25], [1.0], [2.5]])}
    parity = compare(reference, candidate, outputs=["label", "distance"], reference_name="r")
    assert parity.top1_agreement == 0.5
    assert parity.cosine_tensor == "label"


def test_accuracy_comes_with_its_interval() -> None:
    task = accuracy(np.array([[0, 1], [1, 0], [0, 1], [0, 1]]), np.array([1, 0, 0, 1]))
    assert (task.value, task.requests) == (0.75, 4)
    assert task.low < 0.75 < task.high


def test_latency_is_measured_for_the_batch_sizes_that_there_are_requests_for() -> None:
    assert [entry.batch_size for entry in latencies(Echo(), _requests([3] * 20), threads=1)] == [1, 8]
    assert [entry.batch_size for entry in latencies(Echo(), _requests([3] * 5), threads=1)] == [1]


def test_a_latency_entry_is_ordered_and_counts_its_calls() -> None:
    [entry] = latencies(Echo(), _requests([3]), threads=1)
    assert 0 < entry.p50_ms <= entry.p95_ms
    assert entry.calls == 30
