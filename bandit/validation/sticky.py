"""V8: users that come back are no new coins: what analysing sticky requests one by one costs, and what is safe."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from anabranch.bandit.betting import Claim, ContrastTest
from anabranch.bandit.scales import BINARY, BoundedScale, FloatArray, GridScale, IntArray
from anabranch.bandit.validation.checks import Cell, Check, Sense, Trial, rate_check
from anabranch.bandit.validation.many import ManyCells, ManyContrasts

ALPHA = 0.05
USERS, REQUESTS = 2_000, 20
SEGMENT = 500
WINDOW = 5
ACCURACY = 0.9


def _counts(segment: IntArray, arm: IntArray, value: IntArray, segments: int, values: int) -> IntArray:
    """Observations by segment, arm (0 variant, 1 baseline) and value, shape (segments, 2 * values)."""
    place = (segment * 2 + arm) * values + value
    return np.bincount(place, minlength=segments * 2 * values).reshape(segments, 2 * values).astype(np.int64)


def _one_run(icc: float, rng: np.random.Generator) -> dict[str, IntArray]:
    """A run's observations as every analysis counts them, by segment."""
    size = 1.0 / icc - 1.0
    accuracy = rng.beta(ACCURACY * size, (1.0 - ACCURACY) * size, USERS)
    user = rng.permutation(np.repeat(np.arange(USERS), REQUESTS))
    value = (rng.random(user.size) < accuracy[user]).astype(np.int64)
    segment = np.arange(user.size) // SEGMENT
    segments = int(segment[-1]) + 1
    order = np.argsort(user, kind="stable")
    nth = np.empty_like(user)
    nth[order] = np.tile(np.arange(REQUESTS), USERS)
    arm = rng.integers(0, 2, USERS)[user]
    session_arm = rng.integers(0, 2, (USERS, REQUESTS // WINDOW))[user, nth // WINDOW]
    first, opens = nth == 0, nth % WINDOW == 0
    closes = nth == WINDOW - 1
    of_window = np.bincount(user[nth < WINDOW], weights=value[nth < WINDOW], minlength=USERS).astype(np.int64)
    return {
        "every request of a sticky user": _counts(segment, arm, value, segments, 2),
        "a coin for every request": _counts(segment, rng.integers(0, 2, user.size), value, segments, 2),
        "first request of a session": _counts(segment[opens], session_arm[opens], value[opens], segments, 2),
        "first request of a user": _counts(segment[first], arm[first], value[first], segments, 2),
        "closed window of a user": _counts(
            segment[closes], arm[closes], of_window[user[closes]], segments, WINDOW + 1
        ),
    }


def _false_decisions(counts: IntArray, scale: BoundedScale, values: FloatArray) -> int:
    """Runs that decide between equal arms; counts of shape (runs, segments, 2 * values)."""
    runs, k = counts.shape[0], values.size
    tests = [
        ManyContrasts(ContrastTest(claim=claim, scale=scale), runs, values)
        for claim in (Claim.SUPERIORITY, Claim.HARM)
    ]
    top = np.full(runs, -np.inf)
    half = np.full(runs, 0.5)
    for segment in range(counts.shape[1]):
        cell = ManyCells(
            pi_v=half,
            pi_c=half,
            counts_v=counts[:, segment, :k],
            counts_c=counts[:, segment, k:],
            others=np.zeros(runs, dtype=np.int64),
        )
        for test in tests:
            test.advance([cell])
            top = np.maximum(top, test.log_e())
    return int((top >= math.log(2.0 / ALPHA)).sum())


def _analyses(icc: float, trial: Trial) -> tuple[Check, ...]:
    runs = [_one_run(icc, trial.rng) for _ in range(trial.runs)]
    checks = []
    for analysis in runs[0]:
        counts = np.stack([run[analysis] for run in runs])
        bins = counts.shape[2] // 2
        scale = BINARY if bins == 2 else GridScale(low=0.0, high=1.0, bins=bins)
        events = _false_decisions(counts, scale, np.arange(bins) / (bins - 1))
        name = f"false decision, {analysis}, ICC={icc:g}"
        if analysis == "every request of a sticky user":
            note = "the wrong analysis, which the engine does not make: its inflation is documented"
            if icc >= 0.1:
                checks.append(
                    rate_check("V8", name, events, trial.runs, 0.12, sense=Sense.AT_LEAST, note=note)
                )
            continue
        checks.append(rate_check("V8", name, events, trial.runs, ALPHA))
    return tuple(checks)


CELLS = tuple(
    Cell(row="V8", name=f"ICC={icc:g}", run=partial(_analyses, icc), long=600, short=60 if icc == 0.1 else 0)
    for icc in (0.02, 0.1, 0.3)
)
