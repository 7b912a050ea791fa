"""What a drill must not have done: lose, count twice, act on what was not saved, or forget."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
from sqlalchemy import text

from anabranch.bandit.evidence import Evidence, merge_cells, merge_pairs
from anabranch.router.reading import JournalReader
from anabranch.store.engine import new_engine
from anabranch.store.journal import read_records, segments
from anabranch.store.memory import MemoryStore
from anabranch.store.records import Flag, Routed
from anabranch.store.sql import SqlStore, open_store
from anabranch.store.verify import verify
from bench.faults.seen import Seen
from bench.faults.world import NAME, World, document
from bench.record_by_record import ingest_one_by_one


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a drill left behind.

    Attributes:
        answered: Requests that were answered.
        recorded: Requests in the journal: those, and some that were killed before their answer left.
        counted: Requests in the evidence.
        lost: Answered, but in no record.
        duplicated: Records, or requests in the evidence, beyond one for each assignment.
        decisions: Saved.
        publications: Of weights.
        problems: What is wrong, each in a sentence.
    """

    answered: int
    recorded: int
    counted: int
    lost: int
    duplicated: int
    decisions: int
    publications: int
    problems: tuple[str, ...]


def check(world: World, seen: Seen, *, sticky: bool) -> Found:
    """Read the journals to their ends, and compare everything with everything."""
    store = open_store(world.url)
    corrupt: list[str] = []
    for journal in world.journals:
        reader = JournalReader(store, journal)
        while (read := reader.read()).records:
            pass
        corrupt += read.corrupt
    requests = [
        (name.lane, record)
        for journal in world.journals
        for name in segments(journal)
        for record, _ in read_records(name.path(journal), 0, limit=1 << 62)
        if isinstance(record, Routed)
    ]
    recorded = Counter((lane, record.sequence) for lane, record in requests)
    answered = Counter((lane, number) for lane, numbers in seen.answered.items() for number in numbers)
    evidence = _evidence(store)
    counted = sum(cell.requests for cell in evidence.cells)
    problems = [f"damage was reported where there is none: {reason}" for reason in corrupt]
    problems += _compared(evidence, world, requests, sticky=sticky)
    problems += _published(world, seen, store.baseline("m"))
    problems += _fenced(seen)
    verified = verify(store, NAME)
    if not verified.matches:
        problems.append(
            f"decisions do not follow from the evidence: {verified.first_mismatch} {verified.problems}"
        )
    if seen.is_stuck:
        problems.append(f"the experiment is stuck in {seen.phase}")
    decisions = len(verified.decisions)
    store.close()
    return Found(
        answered=len(answered),
        recorded=len(recorded),
        counted=counted,
        lost=len(answered.keys() - recorded.keys()),
        duplicated=sum(number - 1 for number in recorded.values()) + max(0, counted - recorded.total()),
        decisions=decisions,
        publications=sum(len(life.publications) for life in seen.lives),
        problems=tuple(problems),
    )


def _evidence(store: SqlStore) -> Evidence:
    """What decisions were taken on, and what no tick has come to yet."""
    parts = [*store.evidence_log(NAME), store.load_evidence(NAME, store.experiment(NAME).state.cursor)]
    return Evidence(
        experiment=NAME,
        cells=merge_cells(cell for part in parts for cell in part.cells),
        pairs=merge_pairs(pair for part in parts for pair in part.pairs),
    )


def _compared(
    evidence: Evidence, world: World, requests: list[tuple[int, Routed]], *, sticky: bool
) -> list[str]:
    """Compare with the same journals read at once, record by record, by a store that nothing ever happened to."""
    plain = MemoryStore()
    plain.apply(document(sticky=sticky), "drill", 0.0)
    for journal in world.journals:
        ingest_one_by_one(plain, journal, limit=1 << 62)
    expected = plain.load_evidence(NAME, 0)
    if not sticky:
        same = evidence.cells == expected.cells and evidence.pairs == expected.pairs
        return [] if same else ["the evidence is not what the journal says"]
    # Which request of a unit is its first depends on how far it had been read: how many there are does not.
    problems = []
    for what in ("requests", "masked"):
        found, wanted = (
            {(cell.epoch, cell.variant): getattr(cell, what) for cell in each.cells}
            for each in (evidence, expected)
        )
        if found != wanted:
            problems.append(f"{what} in the evidence are {found}, the journal says {wanted}")
    units = len({record.unit for _, record in requests if Flag.EVIDENCE in record.flags})
    if (found_units := sum(cell.units for cell in evidence.cells)) != units:
        problems.append(f"{found_units} units in the evidence, {units} in the journal")
    if [(p.epoch, p.variant, p.pairs) for p in evidence.pairs] != [
        (p.epoch, p.variant, p.pairs) for p in expected.pairs
    ]:
        problems.append("the compared replies in the evidence are not those of the journal")
    return problems


def _published(world: World, seen: Seen, promoted: str | None) -> list[str]:
    """What was published had been saved, and no controller began behind what had been published when it began."""
    engine = new_engine(world.url)
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT number, weights FROM epoch")).all()
    engine.dispose()
    saved: dict[int, dict[str, float]] = {number: orjson.loads(weights) for number, weights in rows}
    everything = [each for life in seen.lives for each in life.publications]
    problems = []
    for each in everything:
        if each.epoch and not _are_same(saved.get(each.epoch), each.weights):
            problems.append(
                f"epoch {each.epoch} was published as {each.weights}, saved is {saved.get(each.epoch)}"
            )
        served = {name for name, weight in each.weights.items() if weight > 0.0}
        if not each.epoch and (wrong := served - {"base", promoted}):
            problems.append(f"{wrong} served without an experiment, the baseline is {promoted or 'base'}")
    for life in seen.lives:
        epochs = [each.epoch for each in life.publications if each.epoch]
        if any(later < earlier for earlier, later in itertools.pairwise(epochs)):
            problems.append(f"one controller published epochs {epochs}, out of order")
        before = max((each.epoch for each in everything if each.at_s < life.begun_s), default=0)
        if epochs and epochs[0] < before:
            problems.append(f"a controller began with epoch {epochs[0]}, {before} had been published")
    return problems


def _fenced(seen: Seen) -> list[str]:
    """No decision was saved by two controllers, and none by a leader after a later one had saved."""
    saved = sorted(pair for life in seen.lives for pair in life.decisions)
    problems = [
        f"decision {number} was saved {times} times"
        for number, times in Counter(number for number, _ in saved).items()
        if times > 1
    ]
    for (before, larger), (number, token) in itertools.pairwise(saved):
        if token < larger:
            problems.append(
                f"decision {number} was saved with token {token}, decision {before} with {larger} before"
            )
    return problems


def _are_same(saved: Mapping[str, float] | None, published: Mapping[str, float]) -> bool:
    if saved is None:
        return False
    names = saved.keys() | published.keys()
    return all(abs(saved.get(name, 0.0) - published.get(name, 0.0)) < 1e-9 for name in names)


def in_new_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that is removed after the drill."""
    return tempfile.TemporaryDirectory(prefix="faults-", dir=Path(tempfile.gettempdir()))
