"""When requests leave."""

import asyncio
import math
import random
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import uvloop

from anabranch.cli.bench.pacing import FineTimer, LoopTimer, Pacer, Timer, poisson_arrivals


class ManualTimer:
    """Wakes when a test says so."""

    def __init__(self) -> None:
        self.at_s = math.inf
        self.callback: Callable[[], None] = lambda: None
        self.armed = 0

    def arm(self, at_s: float, callback: Callable[[], None]) -> None:
        self.at_s, self.callback = at_s, callback
        self.armed += 1


def test_arrivals_come_at_their_rate_with_exponential_gaps() -> None:
    moments = list(poisson_arrivals(200.0, 5.0, 105.0, random.Random(7)))
    # 20,000 expected; five standard deviations to either side.
    assert abs(len(moments) - 20_000) < 5 * math.sqrt(20_000)
    assert moments == sorted(moments)
    assert moments[0] > 5.0
    assert moments[-1] < 105.0
    gaps = [after - before for before, after in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.03)
    # Longer than the mean: a share of 1/e.
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(1 / math.e, abs=0.02)


def test_the_same_seed_gives_the_same_moments() -> None:
    first, second = (list(poisson_arrivals(50.0, 0.0, 10.0, random.Random(3))) for _ in range(2))
    assert first == second
    assert first != list(poisson_arrivals(50.0, 0.0, 10.0, random.Random(4)))


def test_a_pacer_that_wakes_late_sends_all_that_was_due_with_its_own_moment() -> None:
    now_s = 0.0
    timer, sent, finished = ManualTimer(), list[float](), list[float]()
    pacer = Pacer(
        iter([1.0, 2.0, 3.0, 9.0]),
        now=lambda: now_s,
        timer=timer,
        send=sent.append,
        finish=lambda: finished.append(now_s),
    )
    pacer.start()
    assert (timer.at_s, sent) == (1.0, [])
    now_s = 3.5
    timer.callback()
    assert (timer.at_s, sent, finished) == (9.0, [1.0, 2.0, 3.0], [])
    now_s = 9.0
    timer.callback()
    assert (sent, finished) == ([1.0, 2.0, 3.0, 9.0], [9.0])


def test_a_pacer_woken_early_sends_nothing() -> None:
    timer, sent = ManualTimer(), list[float]()
    pacer = Pacer(iter([5.0]), now=lambda: 4.0, timer=timer, send=sent.append, finish=lambda: None)
    pacer.start()
    timer.callback()
    assert sent == []
    assert timer.armed == 2


def test_a_pacer_without_moments_is_finished_at_once() -> None:
    finished = list[bool]()
    Pacer(
        iter([]),
        now=lambda: 0.0,
        timer=ManualTimer(),
        send=lambda _: None,
        finish=lambda: finished.append(True),
    ).start()
    assert finished == [True]


@pytest.mark.parametrize("kind", ["fine", "loop"])
def test_timers_wake_in_order_and_never_early(kind: str) -> None:
    async def run() -> tuple[list[float], list[float]]:
        loop = asyncio.get_running_loop()
        timer: FineTimer | LoopTimer = FineTimer(loop) if kind == "fine" else LoopTimer(loop, time.monotonic)
        over = loop.create_future()
        start = time.monotonic()
        moments = [start + number * 0.004 for number in range(6)]
        woken: list[float] = []

        def send(moment: float) -> None:
            assert time.monotonic() >= moment
            woken.append(moment)

        used: Timer = timer
        Pacer(
            iter(moments), now=time.monotonic, timer=used, send=send, finish=lambda: over.set_result(None)
        ).start()
        await over
        timer.close()
        return moments, woken

    moments, woken = uvloop.run(run())
    assert woken == moments
