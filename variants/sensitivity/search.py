"""Choose which layers stay in full precision, so that a limit on lost accuracy holds with as few of them as possible.

The layers that cost most by themselves are kept first; how many, is found by halving. The limit is checked on requests
that do not judge the variant afterwards.
"""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray

from anabranch.variants.class_scores import score_tensor
from anabranch.variants.errors import RecipeError
from anabranch.variants.measure import classes
from anabranch.variants.models import PreparedModel, Progress
from anabranch.variants.sensitivity.report import measure_layers, ranking, reduced_layers
from anabranch.variants.sensitivity.switches import SwitchedModel

# 1,000 requests resolve a tenth of a percentage point.
_MOST_REQUESTS = 1_000


def layers_to_keep(
    model: PreparedModel,
    reduced: onnx.ModelProto,
    *,
    max_drop: float,
    threads: int,
    tell: Progress,
) -> tuple[str, ...]:
    """The layers that must stay in full precision, the most costly first.

    Args:
        model: The reference, with requests that trained or calibrated it; without their labels every changed answer
            counts as a lost one.
        reduced: A graph built of the reference with every layer reduced.
        max_drop: Largest tolerated loss of accuracy, in (0, 1).
        threads: Threads that share a call's work.
        tell: Takes a line for every assignment that was tried.

    Raises:
        RecipeError: The limit is no share, there are no requests to check it with, or no output has classes.
    """
    if not 0 < max_drop < 1:
        raise RecipeError(
            f"largest loss of accuracy {max_drop} must be between 0 and 1: 0.005 is half a point"
        )
    report = measure_layers(model, reduced, threads=threads)
    if report is None:
        raise RecipeError("mixed by sensitivity needs training or calibration requests, the model has 0")
    ranked = ranking(report)
    requests = (model.training or model.calibration)[:_MOST_REQUESTS]
    labels = (
        model.training_labels[: len(requests)]
        if model.training and model.training_labels is not None
        else None
    )
    layers = [layer for layer, _ in reduced_layers(model, reduced)]
    switched = SwitchedModel(model.graph, reduced, layers, probe=None, threads=threads)
    answers = switched.run(requests, ())
    output = score_tensor(answers)
    if output is None:
        raise RecipeError(
            "mixed by sensitivity needs an output with scores of classes (floating, two columns or more)"
        )
    reference = classes(answers[output])

    def drop(kept: int) -> float:
        found = classes(switched.run(requests, set(ranked[kept:]))[output])
        lost = accuracy_drop(reference, found, labels)
        tell(f"{len(ranked) - kept} of {len(ranked)} layers in INT8: accuracy {-lost:+.2%}")
        return lost

    return tuple(ranked[: fewest_kept(drop, len(ranked), max_drop)])


def fewest_kept(drop: Callable[[int], float], layers: int, max_drop: float) -> int:
    """The smallest number found by halving for which the limit holds; all layers lose nothing by definition.

    Args:
        drop: The loss with this many layers kept.
        layers: How many there are.
        max_drop: The limit.
    """
    low, high = 0, layers
    while low < high:
        middle = (low + high) // 2
        if drop(middle) <= max_drop:
            high = middle
        else:
            low = middle + 1
    return high


def accuracy_drop(
    reference: NDArray[np.int64], found: NDArray[np.int64], labels: NDArray[np.int64] | None
) -> float:
    """Accuracy lost against the reference; without labels, the share of answers that changed."""
    if labels is None:
        return float(np.mean(reference != found))
    return float(np.mean(reference == labels) - np.mean(found == labels))
