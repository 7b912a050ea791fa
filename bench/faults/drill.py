"""One drill: servers under random faults, then quiet, then the count of what was lost.

A server is two writers and a controller over a SQLite file; or there are two of them, a writer and a controller each,
over one PostgreSQL database.
"""

import random
import signal
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial

import orjson

from anabranch.bandit.lifecycle import Phase
from anabranch.store.journal import segments
from anabranch.store.sql import open_store
from bench.faults import ticker, writer
from bench.faults.database import Database
from bench.faults.processes import Child
from bench.faults.seen import OF_SHARED, OFTEN, Fault, Life, Publication, Seen
from bench.faults.world import LEASE_S, NAME, World, document

_PAUSE_S = 0.06
_PATIENCE_S = 120.0
# Most of an experiment's life passes while there are faults.
_LIFE_S = 1_200.0


class Drill:
    """Runs in a process without threads, which it forks.

    Args:
        world: An empty folder.
        database: Where its store is.
        seed: Of the faults and of the traffic.
        sticky: Whether requests have units.
        only: What goes wrong; by default everything that can.
        lock_s: How long the database is locked or away, at most.
    """

    def __init__(
        self,
        world: World,
        database: Database,
        seed: int,
        *,
        sticky: bool,
        only: Sequence[Fault] = (),
        lock_s: float = 0.4,
    ) -> None:
        self._world = world
        self._database = database
        self._rng = random.Random(seed)
        self._lock_s = lock_s
        self._ahead_s = 0.0
        self._lanes = 0
        servers, writers = (2, 1) if world.is_shared else (1, 2)
        self._places = [world.at(place) for place in range(servers)]
        self._writers_of_each = writers
        everything = [fault for fault in Fault if world.is_shared or fault not in OF_SHARED]
        self._faults = only or everything
        self._often = only or OFTEN
        self._writers: dict[int, Child] = {}
        self._worlds: dict[int, World] = {}
        self._controllers: dict[int, Child] = {}
        self._lives: dict[int, Life] = {}
        self.seen = Seen()
        # They wait until a writer that has just begun knows what to do with them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {writer.FULL_DISK, writer.ROOM_AGAIN})
        for place in self._places:
            place.journal.mkdir()
        world.set_clock(0.0)
        store = open_store(world.url)
        store.apply(document(sticky=sticky), "drill", time.time())
        store.close()

    def run(self, faults: int) -> Seen:
        """Inject so many faults, let the experiment end, and kill everything."""
        self._fill()
        self._until(lambda: any(self.seen.answered.values()), "the first request is answered")
        for _ in range(faults):
            self._advance(2.0 * _LIFE_S / faults * self._rng.random())
            self._rest()
            often = self._rng.random() < 0.5
            fault = self._rng.choice(self._often) if often else self._rng.choice(self._faults)
            self.seen.faults[fault] += 1
            self.seen.phases[self.seen.phase] += 1
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
                self._kill_controller(self._rng.choice(sorted(self._controllers)))
            case Fault.LEADER:
                self._kill_controller(self._leader())
            case Fault.PAUSED:
                leader = self._controllers[self._leader()]
                leader.signal(signal.SIGSTOP)
                self._rest(LEASE_S * (1.0 + self._rng.random()))
                leader.signal(signal.SIGCONT)
            case Fault.EVERYTHING:
                self._kill_everything()
            case Fault.LOCKED:
                with self._database.locked():
                    self._rest(self._lock_s * self._rng.random())
            case Fault.AWAY:
                with self._database.away():
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
                rival = self._begin_controller(self._rng.choice(self._places), is_rival=True)
                self._rest(5 * _PAUSE_S)
                rival.kill()
                self._hear_controller(rival)
                rival.close()

    # Processes.

    def _fill(self) -> None:
        """Start what is not there."""
        for world in self._places:
            if world.place not in self._controllers:
                self._controllers[world.place] = self._begin_controller(world)
            there = sum(self._worlds[lane].place == world.place for lane in self._writers)
            for _ in range(self._writers_of_each - there):
                self._lanes += 1
                lane, seed = self._lanes, self._rng.getrandbits(32)
                self._worlds[lane] = world
                self._writers[lane] = Child(partial(writer.run, world, lane, seed))

    def _begin_controller(self, world: World, *, is_rival: bool = False) -> Child:
        life = Life(begun_s=time.monotonic())
        child = Child(partial(ticker.run, world, is_rival=is_rival))
        self._lives[child.pid] = life
        self.seen.lives.append(life)
        return child

    def _leader(self) -> int:
        """The place of the controller that leads, or of any while none does."""
        store = open_store(self._world.url)
        leader = store.replicas.leader()
        store.close()
        for place, child in sorted(self._controllers.items()):
            if leader is not None and leader.holder.endswith(f"#{child.pid}"):
                return place
        return self._rng.choice(sorted(self._controllers))

    def _kill_writer(self, lane: int | None = None) -> int:
        lane = self._rng.choice(sorted(self._writers)) if lane is None else lane
        child = self._writers.pop(lane)
        child.kill()
        self._hear_writer(lane, child)
        child.close()
        return lane

    def _kill_controller(self, place: int) -> None:
        child = self._controllers.pop(place)
        child.kill()
        self._hear_controller(child)
        child.close()

    def _kill_everything(self) -> None:
        for lane in sorted(self._writers):
            self._kill_writer(lane)
        for place in sorted(self._controllers):
            self._kill_controller(place)

    def _tear(self, lane: int) -> None:
        """Leave the beginning of a commit at the end of a dead writer's journal, as a kill amid a write does."""
        journal = self._worlds[lane].journal
        mine = [name for name in segments(journal) if name.lane == lane]
        if mine:
            part = struct.pack("<IIII", 0x12345678, 3, 0, 0) + self._rng.randbytes(150)
            with mine[-1].path(journal).open("ab") as file:
                file.write(part[: self._rng.randrange(1, len(part))])

    # What they say.

    def _hear(self) -> None:
        for lane, child in self._writers.items():
            self._hear_writer(lane, child)
        for child in self._controllers.values():
            self._hear_controller(child)

    def _hear_writer(self, lane: int, child: Child) -> None:
        if child.ended_by_itself():
            raise RuntimeError(f"the writer of lane {lane} died by itself: its traceback is above")
        self.seen.answered.setdefault(lane, []).extend(map(int, child.lines()))

    def _hear_controller(self, child: Child) -> None:
        if child.ended_by_itself():
            raise RuntimeError("a controller died by itself: its traceback is above")
        life = self._lives[child.pid]
        for line in child.lines():
            said = orjson.loads(line)
            if "failed" in said:
                self.seen.failed_ticks[said["failed"].split(":")[0]] += 1
            elif "decision" in said:
                life.decisions.append((said["decision"], said["token"]))
                self.seen.phase = said["phase"]
            else:
                life.publications.append(Publication(**said))

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
