"""Intervals of single arms keep their promise while a greedy bandit chooses how many outcomes each arm gets."""

from collections.abc import Callable

import numpy as np

from anabranch.bandit.betting import Claim, ContrastTest, EpochCell
from anabranch.bandit.scales import BINARY
from anabranch.bandit.sequences import contrast_interval, mean_interval, proportion_interval

AtMost = Callable[[int, int, float], bool]
RATES = np.array([0.90, 0.91, 0.89])
LOOKS = {1, 2, 4, 7, 11, 16, 22, 30}


def test_an_arm_and_its_difference_are_covered_at_all_looks(plausibly_at_most: AtMost) -> None:
    rng = np.random.default_rng(16)
    test = ContrastTest(claim=Claim.SUPERIORITY)
    runs = 50
    missed = {"proportion": 0, "mean": 0, "contrast": 0}
    for _ in range(runs):
        good, seen = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
        state, weights = test.start(), np.full(3, 1.0 / 3.0)
        out: set[str] = set()
        for epoch in range(1, 31):
            size = rng.multinomial(100, weights)
            hits = rng.binomial(size, RATES)
            good, seen = good + hits, seen + size
            counts = [{0: int(n - h), 1: int(h)} for n, h in zip(size, hits, strict=True)]
            cell = EpochCell(
                pi_v=float(weights[1]),
                pi_c=float(weights[0]),
                counts_v=counts[1],
                counts_c=counts[0],
                others=int(size[2]),
            )
            state = test.advance(state, [cell])
            # Thompson sampling in its greediest form: one draw an epoch takes nearly all of the traffic.
            weights = np.full(3, 0.05)
            weights[rng.beta(1.0 + good, 1.0 + seen - good).argmax()] = 0.9
            if epoch not in LOOKS:
                continue
            s, n = int(good[1]), int(seen[1])
            intervals = {
                "proportion": proportion_interval(s, n, alpha=0.05, planned_count=1000.0),
                "mean": mean_interval(BINARY, {0: n - s, 1: s}, alpha=0.05),
            }
            out |= {name for name, (low, high) in intervals.items() if not low <= RATES[1] <= high}
            low, high = contrast_interval(test, state, alpha=0.05, least_weight=0.05, planned_requests=3000.0)
            if not low <= RATES[1] - RATES[0] <= high:
                out.add("contrast")
        for name in out:
            missed[name] += 1
    for events in missed.values():
        assert plausibly_at_most(events, runs, 0.05)
