import numpy as np
import pytest

from anabranch.router.compare import compare, scores, top1


def logits(*rows: tuple[float, ...]) -> dict[str, np.typing.NDArray[np.float32]]:
    return {"logits": np.array(rows, np.float32)}


def test_equal_replies_agree_in_everything() -> None:
    found = compare(logits((1, 2, 3)), logits((1, 2, 3)))
    assert (found.agrees, found.max_abs) == (True, 0.0)
    assert found.cosine == pytest.approx(1.0)


def test_agreement_needs_the_same_class_in_every_row() -> None:
    base = logits((1, 2), (2, 1))
    assert compare(logits((0, 9), (9, 0)), base).agrees
    assert not compare(logits((0, 9), (0, 9)), base).agrees


def test_the_largest_difference_and_the_smallest_cosine_count() -> None:
    found = compare(logits((1, 0), (0, 3)), logits((1, 0), (4, 0)))
    assert found.max_abs == 4.0
    assert found.cosine == pytest.approx(0.0)


def test_a_row_of_zeros_has_no_direction_and_counts_as_alike() -> None:
    assert compare(logits((0, 0)), logits((0, 0))).cosine == 1.0


def test_half_precision_is_compared_without_overflow() -> None:
    big = {"logits": np.array([[60_000, -60_000]], np.float16)}
    other = {"logits": np.array([[-60_000, 60_000]], np.float16)}
    assert compare(big, other).max_abs == pytest.approx(119_936, rel=0.01)


def test_replies_of_different_shapes_do_not_agree() -> None:
    found = compare(logits((1, 2)), logits((1, 2), (1, 2)))
    assert (found.agrees, found.max_abs, found.cosine) == (False, float("inf"), -1.0)


def test_scores_that_are_no_numbers_never_agree() -> None:
    found = compare(logits((float("nan"), 1)), logits((1, 0)))
    assert (found.agrees, found.max_abs, found.cosine) == (False, float("inf"), -1.0)


def test_classes_that_are_ruled_out_in_both_replies_agree() -> None:
    masked = logits((1, float("-inf")))
    found = compare(masked, masked)
    assert (found.agrees, found.max_abs, found.cosine) == (True, 0.0, 1.0)


def test_replies_without_scores_agree_when_they_are_equal() -> None:
    one, other = {"ids": np.array([[1, 2]])}, {"ids": np.array([[1, 3]])}
    assert compare(one, one).agrees
    assert not compare(one, other).agrees
    assert not compare(one, {"tokens": np.array([[1, 2]])}).agrees


def test_classes_are_read_from_the_first_output_with_scores() -> None:
    outputs = {
        "ids": np.array([[5, 6]]),
        "length": np.array([1.0], np.float32),
        "logits": np.array([[[0.1, 0.7, 0.2]]], np.float32),
    }
    assert top1(outputs) == 1
    found = scores(outputs)
    assert found is not None
    assert found.shape == (1, 3)


@pytest.mark.parametrize(
    "array", [np.array([[1, 2]]), np.array([1.0, 2.0]), np.ones((2, 1)), np.ones((0, 2))]
)
def test_an_output_without_classes_has_none(array: np.typing.NDArray[np.float64]) -> None:
    assert top1({"y": array}) == -1


def test_divergence_is_that_of_the_classes_from_the_baselines() -> None:
    base, candidate = logits((2, 0, 1)), logits((1, 0, 1))
    p, q = (np.exp(row) / np.exp(row).sum() for row in (np.array([2.0, 0, 1]), np.array([1.0, 0, 1])))
    assert compare(candidate, base).kl == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-6)
    assert compare(base, base).kl == 0.0


def test_probabilities_are_taken_as_they_are() -> None:
    found = compare(logits((0.5, 0.5)), logits((0.9, 0.1)))
    assert found.kl == pytest.approx(0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5), rel=1e-5)
    assert compare(logits((0.5, 0.5)), logits((1.0, 0.0))).kl == pytest.approx(np.log(2), rel=1e-6)
    assert compare(logits((1.0, 0.0)), logits((0.5, 0.5))).kl == float("inf")


def test_what_cannot_diverge_has_no_divergence() -> None:
    ids = {"ids": np.array([[1, 2]])}
    assert compare(ids, ids).kl is None
    assert compare(logits((float("nan"), 1)), logits((1, 0))).kl == float("inf")
    assert compare(logits((1, 2)), logits((1, 2), (1, 2))).kl == float("inf")
