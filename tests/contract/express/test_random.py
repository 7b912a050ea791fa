"""Anything at any time, from fixed seeds: whatever comes together, every request is answered or lost once, and nothing is left."""

import gc
import random
import time
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import psutil
import pytest

from anabranch.bandit.snapshot import MirrorPlan
from anabranch.router.replies import ASSIGNMENT_ID
from anabranch.variants.batching import BatchPolicy

Router = Any
Start = Callable[..., Any]

REFUSED_STREAM, INTERNAL_ERROR, CANCEL = 7, 2, 8


class Chaos:
    """Variants' servers, clients and routes, all moved by one seed.

    Args:
        router: The assembly.
        scripted: The module of its servers.
        raw: The module of its clients.
        seed: Of all that happens.
    """

    def __init__(self, router: Router, scripted: ModuleType, raw: ModuleType, seed: int) -> None:
        self.router, self.scripted, self.raw = router, scripted, raw
        self.random = random.Random(seed)
        self.server_random = random.Random(seed + 1)
        self.ended: list[tuple[dict[bytes, bytes], bytes]] = []
        self.asked = 0
        for server in router.servers.values():
            server.behave = self.behave

    def behave(self, asked: Any) -> None:
        """What a server does with a request: mostly answer."""
        draw = self.server_random.random()
        delay_s = self.server_random.choice((0.0, 0.0, 0.0, 0.001, 0.01, 0.03))
        if draw < 0.8:
            data = bytes(12 * self.server_random.choice((1, 1, 1, 50, 2000, 15_000)))
            asked.later(delay_s, lambda asked: asked.answer(self.scripted.scores(asked.message, data)))
        elif draw < 0.86:
            asked.later(delay_s, lambda asked: asked.fail(self.server_random.choice((3, 4, 8, 13, 14))))
        elif draw < 0.90:
            code = self.server_random.choice((REFUSED_STREAM, INTERNAL_ERROR, CANCEL))
            asked.later(delay_s, lambda asked: asked.reset(code))
        elif draw < 0.95:
            asked.later(0.12 + delay_s)
        elif draw < 0.97:
            asked.later(delay_s, self.half)
        elif draw < 0.98:
            asked.later(delay_s, lambda asked: asked.connection.transport.abort())
        elif draw < 0.992:
            asked.later(delay_s, self.go_away)
        # The others are never answered.

    def half(self, asked: Any) -> None:
        """Begin an answer, and end it later or never."""
        engine = asked.connection.engine
        body = self.scripted.framed(self.scripted.scores(asked.message, bytes(6000)))
        engine.send_response(asked.stream, self.scripted.HEAD)
        engine.send_data(asked.stream, body[:3000])
        asked.connection.flush()
        if self.server_random.random() < 0.7:

            def rest(asked: Any) -> None:
                engine.send_data(asked.stream, body[3000:])
                engine.send_trailers(asked.stream, self.scripted.OK)
                asked.connection.flush()

            asked.later(self.server_random.choice((0.001, 0.02, 0.12)), rest)

    def go_away(self, asked: Any) -> None:
        last = asked.stream - self.server_random.choice((0, 2))
        payload = max(0, last).to_bytes(4, "big") + bytes(4)
        asked.connection.transport.write(len(payload).to_bytes(3, "big") + b"\7\0" + bytes(4) + payload)
        asked.later(0.005)

    def change(self) -> None:
        """Other routes."""
        draw = self.random.random()
        mirror = MirrorPlan(fraction=0.3, arms=(1,), noise_floor=0.2) if draw < 0.3 else None
        unit = "x-user-id" if draw < 0.6 else None
        if draw < 0.1:
            self.router.publish()
        else:
            self.router.publish(self.random.choice((0.0, 0.3, 0.7, 1.0)), mirror=mirror, unit_metadata=unit)

    def client(self) -> None:
        """A connection with some requests, of which some are reset, and which may be cut."""
        client = self.raw.RawClient(self.router.port)
        streams = []
        for _ in range(self.random.randint(1, 25)):
            extra = [(b"x-user-id", b"user-%d" % self.random.randint(0, 50))]
            if self.random.random() < 0.4:
                extra.append((b"grpc-timeout", self.random.choice((b"300m", b"1S", b"100m", b"9S"))))
            message = self.router.request(self.random.choice((1, 1, 2, 700)), id=str(self.asked))
            streams.append(client.send(message, *extra, flush=self.random.random() < 0.3))
            self.asked += 1
            if self.random.random() < 0.05:
                client.reset(self.random.choice(streams))
        client.flush()
        if self.random.random() < 0.2:
            client.cut()
            return
        for stream in streams:
            if self.random.random() < 0.03 and stream not in client.ended:
                client.reset(stream)
        give_up = time.monotonic() + 0.7
        client.socket.settimeout(0.05)
        while time.monotonic() < give_up and not client.is_closed:
            if all(stream in client.ended for stream in streams):
                break
            try:
                client.read()
            except TimeoutError:
                continue
        for stream in streams:
            if client.ended.get(stream) == 0:
                self.ended.append((dict(client.fields[stream]), client.bodies.get(stream, b"")))
        client.cut()

    def finish(self) -> None:
        """Break off what the servers have not answered: nobody may wait for it but copies, which do so for long."""
        for server in self.router.servers.values():
            for asked in server.seen:
                if not (asked.is_over or asked.is_cancelled):
                    asked.reset(CANCEL)

    def run(self, clients: int) -> None:
        for number in range(clients):
            if number % 7 == 0:
                self.change()
            self.client()


def check(router: Router, chaos: Chaos) -> None:
    """Every request is accounted for once; every answer that a client has is recorded as it says."""
    time.sleep(0.2)
    router.do(chaos.finish)
    router.eventually(lambda: not any(router.left().values()))
    counts = router.counts()
    ended = sum(
        count
        for name, count in counts.items()
        if name == "answered" or name.startswith(("failed", "refused"))
    )
    assert ended == router.wire.stats.calls <= chaos.asked
    records = {record.sequence: record for record in router.records()}
    assert len(records) == len(router.records())
    told = Counter(fields[b"grpc-status"] for fields, _ in chaos.ended)
    assert told[b"0"] > 0
    sequences = set()
    for fields, _ in chaos.ended:
        sealed = fields.get(ASSIGNMENT_ID.encode())
        if sealed is None:
            continue
        said = router.ids.open(sealed.decode())
        record = records[said.sequence]
        assert (said.arm, said.flags, said.epoch) == (record.arm, record.flags, record.epoch)
        assert said.propensity == record.propensity
        if fields[b"grpc-status"] == b"0":
            assert record.latency_ms < 3000 or record.status
        sequences.add(said.sequence)
    assert len(sequences) == sum(ASSIGNMENT_ID.encode() in fields for fields, _ in chaos.ended)


@pytest.mark.parametrize("seed", [1])
def test_whatever_happens_every_request_ends_once(
    start: Start, scripted: ModuleType, raw: ModuleType, seed: int
) -> None:
    router = start(seed=seed, candidate_timeout_s=0.4)
    chaos = Chaos(router, scripted, raw, seed)
    chaos.run(10)
    check(router, chaos)


@pytest.mark.parametrize("seed", [3])
@pytest.mark.parametrize("is_local", [("base", "cand"), ("base",), ("cand",)])
def test_whatever_happens_to_variants_here(
    start: Start,
    scripted: ModuleType,
    raw: ModuleType,
    local: ModuleType,
    seed: int,
    is_local: tuple[str, ...],
) -> None:
    draw = random.Random(seed)

    class Moody(local.LocalVariant):  # type: ignore[misc, name-defined]  # loaded by its path
        def infer(self, requests: Any) -> Any:
            time.sleep(draw.choice((0.0, 0.0, 0.001, 0.02, 0.0, 0.13 * (draw.random() < 0.2))))
            if draw.random() < 0.1:
                raise ValueError("not now")
            return super().infer(requests)

    policy = BatchPolicy(max_batch_size=4, max_queue_size=16)
    router = start(seed=seed, candidate_timeout_s=0.4, local=Moody, is_local=is_local, policy=policy)
    chaos = Chaos(router, scripted, raw, seed)
    chaos.run(10)
    check(router, chaos)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 13))
def test_whatever_happens_for_long(start: Start, scripted: ModuleType, raw: ModuleType, seed: int) -> None:
    """Some thousand requests, again and again: what is held does not grow."""
    router = start(seed=seed, candidate_timeout_s=0.4)
    chaos = Chaos(router, scripted, raw, seed)
    sizes: list[int] = []
    objects: list[int] = []
    for _ in range(4):
        chaos.run(30)
        check(router, chaos)
        for server in router.servers.values():
            router.do(server.seen.clear)
        router.do(router.journal.durable.clear)
        chaos.ended.clear()
        gc.collect()
        sizes.append(psutil.Process().memory_info().rss)
        objects.append(len(gc.get_objects()))
    assert objects[-1] - objects[1] < 3000, objects
    assert sizes[-1] - sizes[1] < 30 << 20, sizes
