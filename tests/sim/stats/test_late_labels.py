"""Labels whose delay depends on what they say, on a ramp: errors are seen early, successes late."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from anabranch.bandit.betting import Claim, ContrastTest
from anabranch.bandit.labels import Arrivals, Cohort, arrival_interval, closed, closed_segment
from anabranch.bandit.scales import BINARY

AtMost = Callable[[int, int, float], bool]
HOURS, PER_HOUR, WINDOW_H, RUNS = 30, 400, 12.0, 150
WEIGHTS = {e: {"base": 1.0 - w, "a": w} for e, w in enumerate((0.05, 0.25, 0.5))}
ACCURACY = 0.95


def delays(good: int, bad: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hours until the labels of successes and of errors arrive."""
    return rng.exponential(6.0, good), rng.exponential(1.0, bad)


def world(rng: np.random.Generator) -> Iterator[tuple[int, int, str, np.ndarray, np.ndarray]]:
    """By hour and arm, when the labels of an hour's requests arrive, in hours since the start."""
    for hour in range(HOURS):
        epoch = hour * len(WEIGHTS) // HOURS
        in_a = int(rng.binomial(PER_HOUR, WEIGHTS[epoch]["a"]))
        for arm, n in (("a", in_a), ("base", PER_HOUR - in_a)):
            good = int(rng.binomial(n, ACCURACY))
            of_good, of_bad = delays(good, n - good, rng)
            yield hour, epoch, arm, hour + of_good, hour + of_bad


def test_closed_cohorts_of_equal_arms_are_rarely_told_apart(plausibly_at_most: AtMost) -> None:
    rng = np.random.default_rng(51)
    claims = [ContrastTest(claim=Claim.HARM), ContrastTest(claim=Claim.SUPERIORITY)]
    wrong, naive_gaps, closed_gaps = 0, [], []
    for _ in range(RUNS):
        entered = list(world(rng))
        cohorts = [
            Cohort(
                epoch=epoch,
                variant=arm,
                entered_s=float(hour),
                requests=good.size + bad.size,
                labels={
                    0: int((bad <= hour + WINDOW_H).sum()),
                    1: int((good <= hour + WINDOW_H).sum()),
                },
            )
            for hour, epoch, arm, good, bad in entered
        ]
        states = [test.start() for test in claims]
        seen = 0
        decided = False
        for now in range(HOURS + int(WINDOW_H)):
            ready = closed(cohorts, now=float(now), window_s=WINDOW_H)
            new, seen = ready[seen:], len(ready)
            for index, test in enumerate(claims):
                segment = closed_segment(BINARY, new, WEIGHTS, variant="a", baseline="base", claim=test.claim)
                states[index] = test.advance(states[index], segment)
                decided |= test.log_e(states[index]) >= math.log(40.0)
        wrong += decided
        last = HOURS - 1.0
        naive = {
            arm: (
                sum(int((good <= last).sum()) for _, _, a, good, _ in entered if a == arm),
                sum(int((bad <= last).sum()) for _, _, a, _, bad in entered if a == arm),
            )
            for arm in ("a", "base")
        }
        naive_gaps.append(naive["a"][0] / sum(naive["a"]) - naive["base"][0] / sum(naive["base"]))
        closed_gaps.append(_gap_of_closed(cohorts))
    assert plausibly_at_most(wrong, RUNS, 0.05)
    # What is labelled so far condemns the younger arm; what is closed does not.
    assert np.mean(naive_gaps) < -0.01
    assert abs(float(np.mean(closed_gaps))) < 0.003


def _gap_of_closed(cohorts: list[Cohort]) -> float:
    """Weighted by propensity, of the labels that came."""
    total = {"a": 0.0, "base": 0.0}
    weight = {"a": 0.0, "base": 0.0}
    for cohort in cohorts:
        share = WEIGHTS[cohort.epoch][cohort.variant]
        total[cohort.variant] += cohort.labels[1] / share
        weight[cohort.variant] += sum(cohort.labels.values()) / share
    return total["a"] / weight["a"] - total["base"] / weight["base"]


def test_the_early_warning_covers_the_difference_of_what_has_arrived(plausibly_at_most: AtMost) -> None:
    """Both arms' requests are alike, so at every moment the difference of their potential arrivals is 0 on average."""
    rng = np.random.default_rng(52)
    missed = 0
    for _ in range(RUNS):
        arms = {"a": Arrivals(), "base": Arrivals()}
        events = sorted((when, epoch, arm) for _, epoch, arm, _, bad in world(rng) for when in bad.tolist())
        outside = False
        for number, (when, epoch, arm) in enumerate(events):
            arms[arm] = arms[arm].plus(BINARY, {1: 1}, propensity=WEIGHTS[epoch][arm])
            if number >= 30:
                routed = min(int(when) + 1, HOURS) * PER_HOUR
                low, high = arrival_interval(arms["a"], arms["base"], requests=routed, alpha=0.05)
                outside |= not low <= 0.0 <= high
        missed += outside
    assert plausibly_at_most(missed, RUNS, 0.05)


def test_the_early_warning_sees_a_candidate_with_four_times_the_errors_before_the_window_closes() -> None:
    rng = np.random.default_rng(53)
    arms = {"a": Arrivals(), "base": Arrivals()}
    for _ in range(int(WINDOW_H) - 1):
        for arm, rate in (("a", 0.2), ("base", 0.05)):
            errors = int(rng.binomial(PER_HOUR // 2, rate))
            arms[arm] = arms[arm].plus(BINARY, {1: errors}, propensity=0.5)
    low, _ = arrival_interval(arms["a"], arms["base"], requests=(int(WINDOW_H) - 1) * PER_HOUR, alpha=0.05)
    assert low > 0.0
