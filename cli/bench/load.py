"""The load generator: one loop, one channel, requests by a schedule or a number always in flight."""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from anabranch.cli.bench.pacing import Pacer, Timer, poisson_arrivals
from anabranch.cli.bench.tally import Tally
from anabranch.wire.client import Channel, Reply
from anabranch.wire.seam import Metadata

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
# Beyond this, a server does not keep up, and more would only fill the generator's memory.
MAX_IN_FLIGHT: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is sent, and when.

    Attributes:
        message: The serialized request.
        rate_per_s: Mean rate of a Poisson process; None: always `concurrency` in flight.
        concurrency: Requests in flight without a rate.
        warm_up_s: Seconds at the begin that are not counted.
        duration_s: Seconds that are.
        deadline_s: After which a request has failed.
        metadata: Sent with each request.
        unit_field: Metadata field that names the unit; empty for none.
        units: Number of units, each as likely as the other.
        seed: Of the moments and the units.
    """

    message: bytes
    rate_per_s: float | None
    concurrency: int
    warm_up_s: float
    duration_s: float
    deadline_s: float
    metadata: tuple[tuple[str, str], ...] = ()
    unit_field: str = ""
    units: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to.

    Attributes:
        tally: The counts.
        elapsed_s: From the end of the warm-up to the last answer, at least the duration.
        unanswered: Requests that had not ended when their deadlines had long passed.
        cpu_s: CPU time of this process meanwhile.
    """

    tally: Tally
    elapsed_s: float
    unanswered: int
    cpu_s: float


class Load:
    """One run against one channel.

    Args:
        channel: To the server.
        plan: What is sent.
        timer: On the clock `now`.
        now: The clock of moments and latencies; the loop's own is too coarse.
    """

    def __init__(
        self, channel: Channel, plan: Plan, timer: Timer, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._channel = channel
        self._plan = plan
        self._timer = timer
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._rng = random.Random(plan.seed)
        self._metadata = [
            self._unit_metadata(number) for number in range(plan.units if plan.unit_field else 1)
        ]
        self._over = self._loop.create_future()
        self._in_flight = 0
        self._is_sending = True
        self._count_from_s = self._end_s = 0.0
        self._cpu_from_s = 0.0
        self.tally = Tally()

    async def run(self) -> Outcome:
        """Send by the plan, and wait for what is in flight."""
        plan = self._plan
        start_s = self._now()
        self._count_from_s = start_s + plan.warm_up_s
        self._end_s = self._count_from_s + plan.duration_s
        self._cpu_from_s = _cpu_s()
        if plan.warm_up_s:
            self._loop.call_later(plan.warm_up_s, self._count_cpu)
        if plan.rate_per_s is None:
            for _ in range(plan.concurrency):
                self._send(start_s)
        else:
            arrivals = poisson_arrivals(plan.rate_per_s, start_s, self._end_s, random.Random(plan.seed))
            Pacer(
                arrivals, now=self._now, timer=self._timer, send=self._send, finish=self._stop_sending
            ).start()
        # Every request ends by its deadline; the rest is for a loop that is behind.
        longest_s = plan.warm_up_s + plan.duration_s + plan.deadline_s + 5.0
        await asyncio.wait([self._over], timeout=longest_s)
        cpu_s = _cpu_s() - self._cpu_from_s
        elapsed_s = max(plan.duration_s, self.tally.last_end_s - self._count_from_s)
        return Outcome(tally=self.tally, elapsed_s=elapsed_s, unanswered=self._in_flight, cpu_s=cpu_s)

    def progress(self) -> str:
        """Say in a line how it goes."""
        left_s = self._end_s - self._now()
        failed = self.tally.ended.total() - self.tally.latency.total
        p50_s = self.tally.latency.quantile(0.5)
        latency = "" if p50_s is None else f", p50 {p50_s * 1000:.3g} ms"
        phase = f"{max(0.0, left_s):.0f} s left" if self._now() >= self._count_from_s else "warming up"
        return f"{phase}: {self.tally.ended.total():,} answered, {failed:,} not OK, {self._in_flight:,} in flight{latency}"

    def _send(self, intended_s: float) -> None:
        now_s = self._now()
        counts = intended_s >= self._count_from_s
        if self._in_flight >= MAX_IN_FLIGHT:
            self.tally.skipped += counts
            return
        if counts:
            self.tally.begin(intended_s, now_s)
        self._in_flight += 1
        metadata = self._metadata
        self._channel.unary(
            INFER,
            self._plan.message,
            done=partial(self._end, intended_s),
            metadata=metadata[0] if len(metadata) == 1 else self._rng.choice(metadata),
            deadline=self._loop.time() + self._plan.deadline_s,
        )

    def _end(self, intended_s: float, reply: Reply) -> None:
        now_s = self._now()
        self._in_flight -= 1
        if intended_s >= self._count_from_s:
            self.tally.end(intended_s, now_s, reply)
        if self._plan.rate_per_s is None:
            if now_s < self._end_s:
                self._send(now_s)
                return
            self._is_sending = False
        if not (self._is_sending or self._in_flight or self._over.done()):
            self._over.set_result(None)

    def _stop_sending(self) -> None:
        self._is_sending = False
        if not self._in_flight:
            self._over.set_result(None)

    def _count_cpu(self) -> None:
        self._cpu_from_s = _cpu_s()

    def _unit_metadata(self, number: int) -> Metadata:
        own = ((self._plan.unit_field, f"unit-{number}"),) if self._plan.unit_field else ()
        return [*self._plan.metadata, *own]


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
