"""What several routers see, each with a journal of its own, adds up to what one router that sees all of it would have."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anabranch.bandit.evidence import merge_cells, merge_pairs
from anabranch.store.ingest import ingest
from anabranch.store.journal import JournalWriter
from anabranch.store.port import Store
from anabranch.store.records import Feedback, Flag, Pair, Record, Routed

Write = Callable[..., dict[str, Any]]
ROUTERS = 3
ROUNDS = 4
REQUESTS = 120
"""A round and router."""


def one_router_day(
    rng: np.random.Generator, lane: int, experiment: int, begun: int
) -> dict[int, list[Record]]:
    """What a router records in one round, and by lane the feedback that comes through whichever router.

    A user's outcomes are the same wherever they come from, so that it does not matter which request is read first.
    """
    found: dict[int, list[Record]] = {each: [] for each in range(1, ROUTERS + 1)}
    for number in range(REQUESTS):
        user = int(rng.integers(0, 200))
        arm = user % 3
        sampled = arm == 0 and user % 2 == 0
        flags = Flag.EVIDENCE | Flag.STICKY | (Flag.SAMPLED if sampled else Flag(0))
        sequence = begun + number
        common: dict[str, Any] = {"at_s": 1.0, "experiment": experiment, "epoch": 0, "sequence": sequence}
        found[lane].append(
            Routed(
                **common,
                arm=arm,
                flags=flags,
                status=13 if user % 17 == 0 else 0,
                latency_ms=1.0 + user,
                queue_ms=0.0,
                compute_ms=0.5 + user,
                batch_rows=1,
                propensity=1 / 3,
                unit=user.to_bytes(16, "big"),
            )
        )
        if sampled:
            agrees = user % 10 != 0
            found[lane].append(
                Pair(
                    **common,
                    arm=1,
                    status=0,
                    agrees=agrees,
                    baseline_top1=1,
                    top1=1 if agrees else 2,
                    max_abs=0.0,
                    cosine=1.0,
                )
            )
        if user % 4 != 3:
            through = int(rng.integers(1, ROUTERS + 1))
            found[through].append(
                Feedback(
                    **common,
                    arm=arm,
                    flags=flags,
                    lane=lane,
                    top1=1,
                    is_label=True,
                    value=float(user % 5 != 0),
                    metric="correct",
                )
            )
    return found


def test_evidence_of_three_routers_is_that_of_one_that_sees_all(
    store: Store, write_document: Write, tmp_path: Path
) -> None:
    rng = np.random.default_rng(11)
    apart = store.apply(write_document("apart", model="m"), "ada", 1.0).id
    together = store.apply(write_document("together", model="n"), "ada", 1.0).id
    folders = {lane: tmp_path / f"router-{lane}" for lane in range(1, ROUTERS + 1)}
    whole = tmp_path / "one-router"
    for folder in (*folders.values(), whole):
        folder.mkdir()
    writers = {lane: JournalWriter(folder, lane) for lane, folder in folders.items()}
    everything = {lane: JournalWriter(whole, 100 + lane) for lane in folders}

    for turn in range(ROUNDS):
        for lane in folders:
            seed = [turn, lane]
            for experiment, journals, shift in ((apart, writers, 0), (together, everything, 100)):
                day = one_router_day(np.random.default_rng(seed), lane, experiment, turn * REQUESTS)
                for through, records in day.items():
                    for record in records:
                        journals[through].append(_shifted(record, shift))
        for journal in (*writers.values(), *everything.values()):
            journal.commit()
        for lane in rng.permutation(list(folders)):
            ingest(store, folders[int(lane)])
        ingest(store, whole)
    for journal in (*writers.values(), *everything.values()):
        journal.close()

    seen, expected = store.load_evidence("apart", 0), store.load_evidence("together", 0)
    assert merge_cells(seen.cells) == merge_cells(expected.cells)
    assert merge_pairs(seen.pairs) == merge_pairs(expected.pairs)
    assert sum(cell.requests for cell in seen.cells) == ROUTERS * ROUNDS * REQUESTS
    assert 150 < sum(cell.units for cell in seen.cells) <= 200
    assert any("feedback.correct" in pair.metrics for pair in seen.pairs)
    assert any("feedback.correct" in cell.metrics for cell in seen.cells)


def _shifted(record: Record, lanes: int) -> Record:
    """The same, where it is about a lane that the one router has under another number."""
    return replace(record, lane=record.lane + lanes) if isinstance(record, Feedback) else record
