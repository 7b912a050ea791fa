"""What a variant's answers to held-out requests are worth: distance from the reference, accuracy, and the offline gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.class_scores import score_tensor
from anabranch.variants.errors import BuildError
from anabranch.variants.gate import GateVerdict
from anabranch.variants.judging import judge_accuracy, judge_agreement
from anabranch.variants.manifest import Parity, TaskMetric
from anabranch.variants.measure import accuracy, classes, compare
from anabranch.variants.models import Progress
from anabranch.variants.tensors import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was found; None where there was nothing to find it with."""

    parity: Parity | None = None
    task: TaskMetric | None = None
    gate: GateVerdict | None = None


def evaluate(
    variant: str,
    outputs: Mapping[str, Array],
    reference: Mapping[str, Array],
    reference_name: str,
    *,
    names: Sequence[str],
    labels: NDArray[np.int64] | None,
    probe: str | None = None,
    is_same_model: bool = True,
    tell: Progress,
) -> Evaluation:
    """Compare a variant's answers with the reference's.

    Args:
        variant: Its name.
        outputs: Its answers by tensor, requests first.
        reference: The reference's answers to the same requests; the variant's own where it is the reference.
        reference_name: The reference's name.
        names: What clients see, in the order of the graph.
        labels: The right class of every request, shape (n,).
        probe: An inner tensor that is compared by direction.
        is_same_model: Whether it is meant to answer as the reference does. Of another model changed answers may be
            better ones, so without labels the gate says nothing.
        tell: Takes a line on the gate.

    Raises:
        BuildError: An answer is not finite, or there are labels and no output has scores of classes.
    """
    for name in names:
        if outputs[name].dtype.kind == "f" and not np.isfinite(outputs[name]).all():
            raise BuildError(f"{variant} answers with values that are not finite in {name!r}: refuse it")
    parity = compare(reference, outputs, outputs=names, cosine_tensor=probe, reference_name=reference_name)
    scores = score_tensor({name: reference[name] for name in names})
    if scores is None:
        if labels is not None:
            raise BuildError(
                f"the samples have labels, and none of the outputs {list(names)} has scores of classes "
                "(floating, two columns or more): leave the labels out, or export the scores"
            )
        tell(f"gate {variant}: none, no output has scores of classes")
        return Evaluation(parity=parity)
    task = accuracy(outputs[scores], labels) if labels is not None else None
    if variant == reference_name:
        return Evaluation(parity=parity, task=task)
    ours, theirs = classes(outputs[scores]), classes(reference[scores])
    if labels is not None:
        gate = judge_accuracy(theirs, ours, labels)
    elif is_same_model:
        gate = judge_agreement(theirs, ours)
    else:
        tell(f"gate {variant}: none, another model may answer otherwise: give labels to judge it by")
        return Evaluation(parity=parity)
    tell(f"gate {variant}: {gate.outcome}, {gate.reason}")
    return Evaluation(parity=parity, task=task, gate=gate)
