"""Which output of a model holds the scores of its classes: one rule for built variants and for live answers."""

from collections.abc import Mapping

from anabranch.variants.tensors import Array


def score_tensor(outputs: Mapping[str, Array]) -> str | None:
    """The output that classes are read from: the first floating one with at least two columns.

    Classifiers of scikit-learn give the class first, as an integer, and its probabilities after it.

    Args:
        outputs: A model's answer, in the order of its graph.

    Returns:
        Its name; None where no output has scores.
    """
    for name, array in outputs.items():
        if array.dtype.kind == "f" and array.ndim >= 2 and array.shape[-1] >= 2 and array.size:
            return name
    return None
