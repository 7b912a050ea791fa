"""Measure a built variant: its distance from the reference, its accuracy and its latency."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.class_scores import score_tensor
from anabranch.variants.collation import run_joined, run_token_rows
from anabranch.variants.errors import VariantError
from anabranch.variants.manifest import BatchLatency, Parity, TaskMetric, wilson_interval
from anabranch.variants.sessions import Session
from anabranch.variants.tensors import Array, Request

# One request alone, and a batch as the batcher makes them under load.
BATCH_SIZES = (1, 8)
_LATENCY_CALLS = {1: 30, 8: 8}
# Rows of similar length a call: enough to keep the cores busy, few enough to pad little.
_EVALUATION_BATCH = 32
_TOKENS = ("input_ids", "attention_mask")


def _is_tokens(request: Request) -> bool:
    return set(request) == set(_TOKENS)


def run_all(session: Session, requests: Sequence[Request]) -> dict[str, Array]:
    """Run one-row requests in batches; outputs come in the requests' order."""
    if _is_tokens(requests[0]):
        order = sorted(range(len(requests)), key=lambda index: requests[index]["input_ids"].shape[1])
    else:
        order = list(range(len(requests)))
    starts = range(0, len(order), _EVALUATION_BATCH)
    chunks = [
        run_batch(session, [requests[index] for index in order[start : start + _EVALUATION_BATCH]])
        for start in starts
    ]
    back = np.argsort(order)
    return {name: np.concatenate([chunk[name] for chunk in chunks])[back] for name in chunks[0]}


def run_batch(session: Session, requests: Sequence[Request]) -> dict[str, Array]:
    """Run one-row requests together."""
    if _is_tokens(requests[0]):
        ids, masks = ([request[name][0] for request in requests] for name in _TOKENS)
        return run_token_rows(session.run, ids, masks)
    answers = run_joined(session.run, requests, [1] * len(requests))
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def compare(
    reference: Mapping[str, Array],
    candidate: Mapping[str, Array],
    *,
    outputs: Sequence[str],
    cosine_tensor: str | None = None,
    reference_name: str,
) -> Parity:
    """Distance between two variants' answers to the same requests.

    Args:
        reference: The reference's tensors by name, requests first.
        candidate: The variant's, of the same shapes.
        outputs: What clients see, in the order of the graph: compared element by element and by their class.
        cosine_tensor: Compared by direction; by default the scores of the classes, else the first output.
        reference_name: The reference variant's name.

    Raises:
        VariantError: No output is of numbers.
    """
    scores = score_tensor({name: reference[name] for name in outputs})
    numbers = [name for name in outputs if reference[name].dtype != np.object_]
    if not numbers:
        raise VariantError(
            f"none of the outputs {list(outputs)} is of numbers: there is no distance to measure"
        )
    cosine_tensor = cosine_tensor or scores or numbers[0]
    rows = len(reference[outputs[0]])
    max_abs = max(float(np.abs(_flat(reference[name]) - _flat(candidate[name])).max()) for name in numbers)
    if scores is not None:
        same = classes(reference[scores]) == classes(candidate[scores])
    else:
        same = np.logical_and.reduce([_equal_rows(reference[name], candidate[name]) for name in outputs])
    cosines = _cosines(_flat(reference[cosine_tensor]), _flat(candidate[cosine_tensor]))
    return Parity(
        reference=reference_name,
        requests=rows,
        max_abs=max_abs,
        top1_agreement=float(np.mean(same)),
        cosine_tensor=cosine_tensor,
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
    )


def _equal_rows(left: Array, right: Array) -> NDArray[np.bool_]:
    """Which rows are the same, of numbers or of text."""
    equal: NDArray[np.bool_] = (left.reshape(len(left), -1) == right.reshape(len(right), -1)).all(axis=1)
    return equal


def _flat(array: Array) -> NDArray[np.float64]:
    return array.reshape(len(array), -1).astype(np.float64)


def _cosines(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each pair of rows; two rows of zeros point the same way."""
    product: NDArray[np.float64] = (left * right).sum(axis=1)
    norms: NDArray[np.float64] = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    same = np.all(left == right, axis=1).astype(np.float64)
    return np.where(norms > 0, product / np.where(norms > 0, norms, 1.0), same)


def classes(outputs: Array) -> NDArray[np.int64]:
    """The index of every row's largest output."""
    largest: NDArray[np.int64] = _flat(outputs).argmax(axis=1)
    return largest


def accuracy(outputs: Array, labels: NDArray[np.int64]) -> TaskMetric:
    """Share of rows whose largest output is the label."""
    right = int((classes(outputs) == labels).sum())
    low, high = wilson_interval(right, len(labels))
    return TaskMetric(name="accuracy", value=right / len(labels), low=low, high=high, requests=len(labels))


def latencies(session: Session, requests: Sequence[Request], *, threads: int) -> tuple[BatchLatency, ...]:
    """Time calls with real requests, for each batch size that there are requests for."""
    return tuple(_latency(session, requests, size, threads) for size in BATCH_SIZES if size <= len(requests))


def _latency(session: Session, requests: Sequence[Request], size: int, threads: int) -> BatchLatency:
    calls = _LATENCY_CALLS[size]
    starts = [(call * size) % (len(requests) - size + 1) for call in range(calls)]
    run_batch(session, requests[:size])
    times: list[float] = []
    for start in starts:
        begin = time.perf_counter()
        run_batch(session, requests[start : start + size])
        times.append((time.perf_counter() - begin) * 1e3)
    p50, p95 = np.percentile(times, [50, 95])
    return BatchLatency(batch_size=size, p50_ms=float(p50), p95_ms=float(p95), calls=calls, threads=threads)
