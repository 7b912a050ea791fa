"""A stand-in for a worker: the worker's own recorder, journal, assignment and ids, without wire and models.

What it writes to the pipe was answered: as in a worker, only after the commit of its record.
"""

import os
import random
import resource
import signal
import time
from collections import deque
from pathlib import Path

from anabranch.bandit.assignment import assign, unit_point
from anabranch.bandit.snapshot import Route
from anabranch.router.assignment_id import AssignmentIds
from anabranch.router.recorder import Recorder
from anabranch.router.routes import Routes
from anabranch.store import codec
from anabranch.store.journal import JournalWriter
from anabranch.store.records import Feedback, Flag, Pair, routed_body
from bench.faults.world import BASELINE, HARMFUL, KEY, MODEL, SOUND, World

FULL_DISK, ROOM_AGAIN = signal.SIGUSR1, signal.SIGUSR2
_SEGMENT_BYTES = 64 << 10
_UNITS = 5_000
_MEDIAN_MS = {BASELINE: 10.0, SOUND: 6.0, HARMFUL: 9.0}
_ERRORS = {BASELINE: 0.01, SOUND: 0.01, HARMFUL: 0.6}


def run(world: World, lane: int, seed: int, answers: int) -> None:
    """Answer requests until killed.

    Args:
        world: Where its journal and its routes are.
        lane: A number no other writer has.
        seed: Of its traffic.
        answers: Where the sequence numbers of answered requests are written.
    """
    signal.signal(FULL_DISK, lambda *_: _limit_files(world.journal))
    signal.signal(ROOM_AGAIN, lambda *_: _limit_files(None))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {FULL_DISK, ROOM_AGAIN})
    _Writer(world, lane, random.Random(seed), answers).run()


class _Writer:
    def __init__(self, world: World, lane: int, rng: random.Random, answers: int) -> None:
        self._world = world
        self._rng = rng
        self._answers = answers
        self._recorder = Recorder(JournalWriter(world.journal, lane, segment_bytes=_SEGMENT_BYTES), lane)
        self._ids = AssignmentIds(KEY)
        self._routes = Routes({MODEL: BASELINE}, loop_time=time.monotonic)
        self._read_at = 0
        # Assignments that feedback may still come for: flags, epoch, arm, sequence.
        self._open: deque[tuple[Flag, int, int, int]] = deque(maxlen=500)

    def run(self) -> None:
        while True:
            self._read_routes()
            answered = [self._request() for _ in range(self._rng.choice((1, 1, 4, 16)))]
            if self._rng.random() < 0.5:
                self._give_feedback()
            self._recorder.commit()
            if self._recorder.is_able():
                os.write(self._answers, b"".join(b"%d\n" % sequence for sequence in answered if sequence))
            time.sleep(0.03 * self._rng.random())

    def _read_routes(self) -> None:
        try:
            found = self._world.snapshot.stat()
        except FileNotFoundError:
            return
        if found.st_mtime_ns != self._read_at:
            self._read_at = found.st_mtime_ns
            self._routes.publish(codec.snapshot_from(self._world.snapshot.read_bytes()))

    def _request(self) -> int:
        """One request on its way; answers its sequence, 0 outside an experiment."""
        route = self._routes.route(MODEL)
        if not (route.experiment_id and self._recorder.is_able()):
            return 0
        rng = self._rng
        sequence = self._recorder.next_sequence()
        flags, unit = Flag.EVIDENCE, bytes(16)
        if route.unit_metadata is None:
            point = rng.random()
        else:
            user = b"user-%d" % rng.randrange(_UNITS)
            flags |= Flag.STICKY
            unit, point = self._ids.digest(user), unit_point(route.salt.encode(), user)
        arm, propensity = assign(route.layout, point)
        variant = route.arms[arm]
        if route.mirror is not None and rng.random() < route.mirror.fraction:
            flags |= Flag.SAMPLED
        status = 14 if rng.random() < _ERRORS[variant] else 0
        latency_ms = _MEDIAN_MS[variant] * rng.lognormvariate(0.0, 0.3)
        if status and arm:
            flags |= Flag.MASKED
        self._recorder.record_body(
            routed_body(
                time.time(),
                route.experiment_id,
                route.epoch,
                arm,
                flags,
                status,
                latency_ms,
                0.1,
                0.8 * latency_ms,
                1,
                propensity,
                sequence,
                unit,
            )
        )
        if Flag.SAMPLED in flags and arm == 0:
            self._compare(route, sequence)
        self._open.append((flags, route.epoch, arm, sequence))
        return sequence

    def _compare(self, route: Route, sequence: int) -> None:
        assert route.mirror is not None
        for arm in route.mirror.arms:
            agrees = self._rng.random() < (0.9 if route.arms[arm] == SOUND else 0.8)
            self._recorder.record(
                Pair(
                    at_s=time.time(),
                    experiment=route.experiment_id,
                    epoch=route.epoch,
                    arm=arm,
                    status=0,
                    agrees=agrees,
                    baseline_top1=1,
                    top1=1 if agrees else 0,
                    max_abs=0.0,
                    cosine=1.0,
                    sequence=sequence,
                )
            )

    def _give_feedback(self) -> None:
        """Late, in any order, and now and then twice; the value depends on the assignment only."""
        route = self._routes.route(MODEL)
        for _ in range(min(len(self._open), 4)):
            flags, epoch, arm, sequence = self._rng.choice(self._open)
            metric = "stars" if sequence % 3 == 0 else "correct"
            self._recorder.record(
                Feedback(
                    at_s=time.time(),
                    experiment=route.experiment_id or 1,
                    epoch=epoch,
                    arm=arm,
                    flags=flags,
                    lane=self._recorder.lane,
                    sequence=sequence,
                    top1=1,
                    is_label=metric == "correct",
                    value=float(sequence % 5 > 0) if metric == "correct" else 1.0 + sequence % 5,
                    metric=metric,
                )
            )


def _limit_files(journal: Path | None) -> None:
    """Let the disk refuse what goes beyond what is there, or take everything again."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max((path.stat().st_size for path in journal.iterdir()), default=0) if journal else hard
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 100 if journal else hard, hard))
