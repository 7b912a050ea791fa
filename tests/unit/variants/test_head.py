import numpy as np
import pytest

from anabranch.variants.errors import BuildError
from anabranch.variants.head import fit_logistic


def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(400, 5)).astype(np.float32)
    noise = rng.logistic(size=400)
    labels = (embeddings @ np.array([2.0, -1.0, 0.0, 0.5, 0.0]) + 0.7 + noise > 0).astype(np.int64)
    return embeddings, labels


def test_the_fit_is_where_the_penalised_likelihood_has_no_slope() -> None:
    embeddings, labels = _data()
    weight, bias = fit_logistic(embeddings, labels, inverse_penalty=2.0)
    logits = embeddings @ (weight[:, 1] - weight[:, 0]) + (bias[1] - bias[0])
    residual = 1 / (1 + np.exp(-logits)) - labels
    slope = embeddings.T @ residual + (weight[:, 1] - weight[:, 0]) / 2.0
    np.testing.assert_allclose(slope, 0, atol=2e-4)
    np.testing.assert_allclose(residual.sum(), 0, atol=2e-4)


def test_the_two_logits_mirror_each_other() -> None:
    weight, bias = fit_logistic(*_data())
    np.testing.assert_array_equal(weight[:, 0], -weight[:, 1])
    assert bias[0] == -bias[1]


def test_swapped_labels_swap_the_logits() -> None:
    embeddings, labels = _data()
    weight, bias = fit_logistic(embeddings, labels)
    swapped_weight, swapped_bias = fit_logistic(embeddings, 1 - labels)
    np.testing.assert_allclose(swapped_weight, weight[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(swapped_bias, bias[::-1], atol=1e-6)


def test_data_of_one_class_is_refused() -> None:
    with pytest.raises(BuildError, match=r"classes \[1\]"):
        fit_logistic(np.ones((3, 2), np.float32), np.ones(3, np.int64))


def test_a_fit_that_does_not_converge_is_refused() -> None:
    with pytest.raises(BuildError, match="1 steps"):
        fit_logistic(*_data(), iterations=1)
