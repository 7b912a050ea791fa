"""The load generator: a process of its own on a core of its own, told by a LoadPlan on standard input.

Closed loop: a number of requests are always in flight; for CPU a request and the unhurried p50. Open loop: requests are
due at Poisson times whatever the server does, and latency counts from the time a request was due, so that a server that
stalls is charged for all that would have come meanwhile; the times and the timer are those of `anabranch bench load`. Every
status is checked.
"""

import asyncio
import base64
import dataclasses
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping

import psutil
import uvloop

from anabranch.cli.bench.pacing import FineTimer, Pacer, poisson_arrivals
from bench.dataplane.connections import Connection, GrpcConnection, JsonConnection
from bench.dataplane.load_plan import Dialect, LoadPlan, LoadResult
from bench.dataplane.processes import cpu_s, label, members, rss_mib

_GIVE_UP_S = 10.0


class Generator:
    """One measurement."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._units = [f"user-{number}".encode() for number in range(plan.units)]
        self._connections: list[Connection] = []
        self._latencies: list[float] = []
        self._lags: list[float] = []
        self._statuses: Counter[str] = Counter()
        self._variants: Counter[str] = Counter()
        self._timeline: list[tuple[float, str]] = []
        self._sent = self._answered = 0
        self._opens_at = self._closes_at = float("inf")
        self._is_running = True

    async def run(self) -> LoadResult:
        """Open the connections, load the server, and say what was seen in the window."""
        plan = self._plan
        self._connections = [await self._connect(number) for number in range(plan.connections)]
        begun = time.monotonic()
        self._opens_at = begun + plan.warm_up_s
        self._closes_at = self._opens_at + plan.seconds
        if plan.rate is None:
            for connection in self._connections:
                for _ in range(plan.streams):
                    connection.send(time.monotonic(), self._unit())
                connection.flush()
        else:
            self._start_open_loop(plan.rate, begun)
        await asyncio.sleep(self._opens_at - time.monotonic())
        tree = members(plan.server_pid)
        cpu, own_cpu, opened = cpu_s(tree), time.process_time(), time.monotonic()
        await asyncio.sleep(self._closes_at - time.monotonic())
        tree = members(plan.server_pid)
        # Once each: some processes rename themselves.
        labels = {each.pid: label(each) for each in tree}
        parts = dict.fromkeys(labels.values(), 0.0)
        for pid, used in cpu_s(tree).items():
            parts[labels[pid]] += used - cpu.get(pid, 0.0)
        own_cpu, wall = time.process_time() - own_cpu, time.monotonic() - opened
        answered_in_window = self._answered
        rss = rss_mib(tree)
        if plan.rate is not None:
            await self._until_all_answered()
        self._is_running = False
        for connection in self._connections:
            connection.close()
        return self._result(parts, own_cpu, wall, answered_in_window, rss)

    async def _connect(self, number: int) -> Connection:
        loop, plan = asyncio.get_running_loop(), self._plan
        body = base64.b64decode(plan.body)

        def factory() -> GrpcConnection | JsonConnection:
            if plan.dialect is Dialect.JSON:
                return JsonConnection(plan.path, body, answer)
            return GrpcConnection(
                _headers(plan),
                body,
                base64.b64decode(plan.needle),
                plan.unit_header.encode(),
                answer,
            )

        def answer(stamp: float, failure: str, variant: str) -> None:
            self._on_answer(number, stamp, failure, variant)

        _, connection = await loop.create_connection(factory, "127.0.0.1", plan.port)
        return connection

    def _unit(self) -> bytes:
        return self._units[int(self._random.random() * len(self._units))]

    def _on_answer(self, number: int, stamp: float, failure: str, variant: str) -> None:
        now = time.monotonic()
        # Closed loop: what is answered in the window. Open loop: what was due in it.
        counted = now if self._plan.rate is None else stamp
        if self._opens_at <= counted < self._closes_at:
            self._answered += 1
            if failure:
                self._statuses[failure] += 1
            else:
                self._latencies.append(now - stamp)
            if variant:
                self._variants[variant] += 1
            if self._plan.keeps_timeline:
                self._timeline.append((stamp, variant))
        # Stop asking a server that has hung up.
        if self._plan.rate is None and self._is_running and failure != "connection lost":
            self._connections[number].send(now, self._unit())

    def _start_open_loop(self, rate: float, begun: float) -> None:
        loop, turns = asyncio.get_running_loop(), itertools.cycle(self._connections)
        timer = FineTimer(loop)
        touched: set[Connection] = set()

        def send(due: float) -> None:
            connection = next(turns)
            connection.send(due, self._unit())
            if not touched:
                loop.call_soon(flush)
            touched.add(connection)
            if due >= self._opens_at:
                self._sent += 1
                self._lags.append(time.monotonic() - due)

        def flush() -> None:
            for connection in touched:
                connection.flush()
            touched.clear()

        arrivals = poisson_arrivals(rate, begun, self._closes_at, self._random)
        Pacer(arrivals, now=time.monotonic, timer=timer, send=send, finish=timer.close).start()

    async def _until_all_answered(self) -> None:
        give_up = time.monotonic() + _GIVE_UP_S
        while self._answered < self._sent and time.monotonic() < give_up:
            await asyncio.sleep(0.01)

    def _result(
        self, parts: Mapping[str, float], own_cpu: float, wall: float, in_window: int, rss: float
    ) -> LoadResult:
        plan, cpu = self._plan, sum(parts.values())
        latencies = sorted(self._latencies)
        good = sum(latency <= plan.slo_ms / 1e3 for latency in latencies)
        failed = self._answered - len(latencies)
        return LoadResult(
            sent=self._sent or self._answered,
            answered=self._answered,
            failed=failed,
            statuses=dict(self._statuses),
            good_per_s=round(good / wall, 1),
            rps=round(len(latencies) / wall, 1),
            cpu_us=round(cpu / max(in_window, 1) * 1e6, 2),
            cpu_parts={name: round(used / max(in_window, 1) * 1e6, 2) for name, used in parts.items()},
            cpu_share=round(cpu / wall, 3),
            p50_ms=_quantile_ms(latencies, 0.5),
            p90_ms=_quantile_ms(latencies, 0.9),
            p99_ms=_quantile_ms(latencies, 0.99),
            lag_p99_ms=_quantile_ms(sorted(self._lags), 0.99),
            rss_mib=round(rss, 1),
            load_cpu_share=round(own_cpu / wall, 3),
            variants=dict(self._variants),
            timeline=self._timeline,
        )


def _headers(plan: LoadPlan) -> list[tuple[bytes, bytes]]:
    found = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", plan.path.encode()),
        (b":authority", b"bench"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"bench"),
    ]
    if plan.deadline_ms:
        found.append((b"grpc-timeout", f"{plan.deadline_ms}m".encode()))
    return found


def _quantile_ms(ordered: list[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed; 0 of nothing."""
    if not ordered:
        return 0.0
    rank = min(len(ordered) - 1, int(share * len(ordered)))
    return round(1e3 * ordered[rank], 4)


def main() -> None:
    """Read a plan, measure, print the result."""
    fields = json.load(sys.stdin)
    fields["dialect"] = Dialect(fields["dialect"])
    plan = LoadPlan(**fields)
    if not psutil.pid_exists(plan.server_pid):
        raise SystemExit(f"no process {plan.server_pid}: the server has ended")
    print(json.dumps(dataclasses.asdict(uvloop.run(Generator(plan).run()))))


if __name__ == "__main__":
    main()
