"""One drill: writers and a controller under random faults, then quiet, then the count of what was lost."""

import contextlib
import random
import signal
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import orjson

from anabranch.bandit.lifecycle import Phase
from anabranch.store.journal import segments
from anabranch.store.sql import open_store
from bench.faults import ticker, writer
from bench.faults.processes import Child
from bench.faults.world import NAME, World, document

_PAUSE_S = 0.06
_PATIENCE_S = 120.0


class Fault(StrEnum):
    """What goes wrong."""

    WRITER = "writer killed"
    CONTROLLER = "controller killed"
    EVERYTHING = "everything killed"
    TORN = "writer killed in the middle of a write"
    LOCKED = "database locked"
    FULL_DISK = "disk full"
    FULL_AND_KILLED = "disk full, then the writer killed"
    CLOCK_BACK = "clock steps back"
    RIVAL = "two controllers race"


_OFTEN = (Fault.WRITER, Fault.CONTROLLER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Weights that a controller gave out.

    Attributes:
        at_s: On the clock that all processes share.
    """

    at_s: float
    epoch: int
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A controller process and what it gave out, in order."""

    begun_s: float
    publications: list[Publication] = field(default_factory=list)


@dataclass(slots=True)
class Seen:
    """What a drill's processes said, and what was done to them.

    Attributes:
        answered: Sequence numbers of answered requests, by lane.
        lives: Of controllers, in the order in which they began.
        failed_ticks: Ticks that failed and were tried again.
        is_stuck: Whether the experiment did not end when everything was well again.
    """

    faults: Counter[Fault] = field(default_factory=Counter)
    answered: dict[int, list[int]] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)
    failed_ticks: Counter[str] = field(default_factory=Counter)
    phase: str = ""
    is_stuck: bool = False


class Drill:
    """Runs in a process without threads, which it forks.

    Args:
        world: An empty folder.
        seed: Of the faults and of the traffic.
        sticky: Whether requests have units.
        writers: How many write at once.
        lock_s: How long the database is locked, at most.
    """

    def __init__(
        self, world: World, seed: int, *, sticky: bool, writers: int = 2, lock_s: float = 0.4
    ) -> None:
        self._world = world
        self._rng = random.Random(seed)
        self._lock_s = lock_s
        self._ahead_s = 0.0
        self._lanes = 0
        self._places = writers
        self._writers: dict[int, Child] = {}
        self._controller: Child | None = None
        self._lives: dict[int, Life] = {}
        self.seen = Seen()
        # They wait until a writer that has just begun knows what to do with them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {writer.FULL_DISK, writer.ROOM_AGAIN})
        world.journal.mkdir()
        world.set_clock(0.0)
        store = open_store(world.url)
        store.apply(document(sticky=sticky), "drill", time.time())
        store.close()

    def run(self, faults: int) -> Seen:
        """Inject so many faults, let the experiment end, and kill everything."""
        self._fill()
        self._until(lambda: any(self.seen.answered.values()), "the first request is answered")
        for _ in range(faults):
            self._advance(5.0 * self._rng.random())
            self._rest()
            often = self._rng.random() < 0.5
            fault = self._rng.choice(_OFTEN) if often else self._rng.choice(list(Fault))
            self.seen.faults[fault] += 1
            self._inject(fault)
            self._fill()
        self._end()
        return self.seen

    def _inject(self, fault: Fault) -> None:
        match fault:
            case Fault.WRITER:
                self._kill_writer()
            case Fault.TORN:
                self._tear(self._kill_writer())
            case Fault.CONTROLLER:
                self._kill_controller()
            case Fault.EVERYTHING:
                self._kill_everything()
            case Fault.LOCKED:
                with self._locked():
                    self._rest(self._lock_s * self._rng.random())
            case Fault.FULL_DISK | Fault.FULL_AND_KILLED:
                lane = self._rng.choice(sorted(self._writers))
                self._writers[lane].signal(writer.FULL_DISK)
                self._rest(3 * _PAUSE_S)
                if fault is Fault.FULL_AND_KILLED:
                    self._kill_writer(lane)
                else:
                    self._writers[lane].signal(writer.ROOM_AGAIN)
            case Fault.CLOCK_BACK:
                self._advance(-self._rng.choice((1.0, 60.0, 3600.0)))
            case Fault.RIVAL:
                rival = self._begin_controller()
                self._rest(5 * _PAUSE_S)
                rival.kill()
                self._hear_controller(rival)
                rival.close()

    # Processes.

    def _fill(self) -> None:
        """Start what is not there."""
        if self._controller is None:
            self._controller = self._begin_controller()
        while len(self._writers) < self._places:
            self._lanes += 1
            lane, seed = self._lanes, self._rng.getrandbits(32)
            self._writers[lane] = Child(partial(writer.run, self._world, lane, seed))

    def _begin_controller(self) -> Child:
        life = Life(begun_s=time.monotonic())
        child = Child(partial(ticker.run, self._world))
        self._lives[child.pid] = life
        self.seen.lives.append(life)
        return child

    def _kill_writer(self, lane: int | None = None) -> int:
        lane = self._rng.choice(sorted(self._writers)) if lane is None else lane
        child = self._writers.pop(lane)
        child.kill()
        self._hear_writer(lane, child)
        child.close()
        return lane

    def _kill_controller(self) -> None:
        child, self._controller = self._controller, None
        assert child is not None
        child.kill()
        self._hear_controller(child)
        child.close()

    def _kill_everything(self) -> None:
        for lane in sorted(self._writers):
            self._kill_writer(lane)
        self._kill_controller()

    def _tear(self, lane: int) -> None:
        """Leave the beginning of a commit at the end of a dead writer's journal, as a kill amid a write does."""
        mine = [name for name in segments(self._world.journal) if name.lane == lane]
        if mine:
            part = struct.pack("<IIII", 0x12345678, 3, 0, 0) + self._rng.randbytes(150)
            with mine[-1].path(self._world.journal).open("ab") as file:
                file.write(part[: self._rng.randrange(1, len(part))])

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        connection = sqlite3.connect(self._world.database, isolation_level=None, timeout=10.0)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.rollback()
            connection.close()

    # What they say.

    def _hear(self) -> None:
        for lane, child in self._writers.items():
            self._hear_writer(lane, child)
        if self._controller is not None:
            self._hear_controller(self._controller)

    def _hear_writer(self, lane: int, child: Child) -> None:
        if child.ended_by_itself():
            raise RuntimeError(f"the writer of lane {lane} died by itself: its traceback is above")
        self.seen.answered.setdefault(lane, []).extend(map(int, child.lines()))

    def _hear_controller(self, child: Child) -> None:
        if child.ended_by_itself():
            raise RuntimeError("a controller died by itself: its traceback is above")
        for line in child.lines():
            said = orjson.loads(line)
            if "failed" in said:
                self.seen.failed_ticks[said["failed"].split(":")[0]] += 1
            else:
                self._lives[child.pid].publications.append(Publication(**said))

    # Time.

    def _advance(self, by_s: float) -> None:
        self._ahead_s += by_s
        self._world.set_clock(self._ahead_s)

    def _rest(self, for_s: float | None = None) -> None:
        """Let the processes work for a random while, and hear them."""
        time.sleep(self._rng.expovariate(1.0 / _PAUSE_S) if for_s is None else for_s)
        self._hear()

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > give_up:
                raise RuntimeError(f"gave up after {_PATIENCE_S:g} s: {what}")
            self._rest(_PAUSE_S)

    def _end(self) -> None:
        """Everything is well again: the experiment must come to its end; then nothing runs any more."""
        store = open_store(self._world.url)
        give_up = time.monotonic() + _PATIENCE_S
        while not (phase := store.experiment(NAME).state.phase).is_over and phase is not Phase.INCONCLUSIVE:
            if time.monotonic() > give_up:
                self.seen.is_stuck = True
                break
            self._advance(60.0)
            self._rest(2 * _PAUSE_S)
        self.seen.phase = str(phase)
        store.close()
        self._kill_everything()
