import math

import numpy as np
import pytest

from anabranch.bandit.verdicts import Outcome
from anabranch.variants.gate import GateMetric
from anabranch.variants.judging import ALPHA, judge_accuracy, judge_agreement


def _answers(*, requests: int, lost: float, gained: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Labels, a reference that is right four times of five, and a variant that differs at these rates."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, requests)
    reference = np.where(rng.random(requests) < 0.8, labels, 1 - labels)
    draw = rng.random(requests)
    right = reference == labels
    flips = np.where(right, draw < lost / 0.8, draw < gained / 0.2)
    return labels, reference, np.where(flips, 1 - reference, reference)


@pytest.mark.parametrize(
    ("lost", "gained", "outcome"),
    [
        (0.01, 0.01, Outcome.PASS),
        (0.1, 0.0, Outcome.FAIL),
        (0.03, 0.01, Outcome.INCONCLUSIVE),
    ],
)
def test_a_loss_within_the_margin_passes_and_one_beyond_it_fails(
    lost: float, gained: float, outcome: Outcome
) -> None:
    labels, reference, found = _answers(requests=1_000, lost=lost, gained=gained)
    verdict = judge_accuracy(reference, found, labels, margin=0.02)
    assert verdict.outcome is outcome
    assert verdict.metric is GateMetric.ACCURACY
    assert verdict.low < verdict.estimate < verdict.high
    assert verdict.estimate == pytest.approx(np.mean(found == labels) - np.mean(reference == labels))
    assert verdict.log_need == pytest.approx(math.log(1 / ALPHA))
    assert "1000 held-out requests, at most 2 lost" in verdict.reason


def test_a_better_variant_passes() -> None:
    labels, reference, found = _answers(requests=1_000, lost=0.0, gained=0.1)
    assert judge_accuracy(reference, found, labels).outcome is Outcome.PASS


def test_few_requests_decide_nothing() -> None:
    labels, reference, found = _answers(requests=20, lost=0.0, gained=0.0)
    assert judge_accuracy(reference, found, labels).outcome is Outcome.INCONCLUSIVE


def test_a_variant_at_the_margin_hardly_ever_gets_a_verdict_against_the_truth() -> None:
    # A share of 0.05 at most is allowed each; 200 trials exceed 19 with probability 0.003 at that rate.
    wrong = 0
    for seed in range(200):
        labels, reference, found = _answers(requests=1_000, lost=0.03, gained=0.01, seed=seed)
        wrong += judge_accuracy(reference, found, labels, margin=0.02).outcome is not Outcome.INCONCLUSIVE
    assert wrong <= 2 * 19


def test_without_labels_changed_answers_count_as_lost() -> None:
    reference = np.zeros(1_000, np.int64)
    found = reference.copy()
    assert judge_agreement(reference, found).outcome is Outcome.PASS
    found[::5] = 1
    verdict = judge_agreement(reference, found)
    assert verdict.outcome is Outcome.FAIL
    assert (verdict.metric, verdict.estimate) == (GateMetric.AGREEMENT, -0.2)
