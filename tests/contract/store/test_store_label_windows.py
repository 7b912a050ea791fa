"""Requests wait for their labels, and count once when their window closes: alike in every store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.decision import Verb
from anabranch.bandit.evidence import Cell, Evidence, PairCell, Window
from anabranch.bandit.step import tick
from anabranch.store.document import parse
from anabranch.store.ingest import ingest
from anabranch.store.ingestion_port import Ingestion
from anabranch.store.journal import JournalWriter
from anabranch.store.port import Store
from anabranch.store.records import Feedback, Flag, Pair, Record, Routed
from anabranch.store.sql import open_store
from anabranch.store.upkeep_port import Compacted
from anabranch.store.verify import verify
from anabranch.store.windows import GRACE_S, LabelWindows

Write = Callable[..., dict[str, Any]]
WINDOW_S = 60.0
CLOSED_S = 100.0 + WINDOW_S + GRACE_S
CORRECT = "feedback.correct"


@pytest.fixture
def document(write_document: Write) -> dict[str, Any]:
    """Accuracy and a graded score wait a minute for their labels, a complaint counts when it comes."""
    document = write_document()
    accuracy = {**document["spec"]["metrics"][0], "labelWindow": "1m"}
    score = {
        "name": "score",
        "source": "feedback.score",
        "role": "signal",
        "range": [0, 4],
        "labelWindow": "1m",
    }
    complaint = {"name": "complaint", "source": "feedback.complaint", "role": "signal"}
    document["spec"]["metrics"] = [accuracy, score, complaint]
    return document


def routed(sequence: int, **changes: Any) -> Routed:
    usual = Routed(
        at_s=100.0,
        experiment=1,
        epoch=1,
        arm=0,
        flags=Flag.EVIDENCE,
        status=0,
        latency_ms=10.0,
        queue_ms=1.0,
        compute_ms=8.0,
        batch_rows=1,
        propensity=0.5,
        sequence=sequence,
        unit=bytes(16),
    )
    return replace(usual, **changes)


def pair(sequence: int, top1: int, **changes: Any) -> Pair:
    usual = Pair(
        at_s=100.0,
        experiment=1,
        epoch=1,
        arm=1,
        status=0,
        agrees=top1 == 1,
        baseline_top1=1,
        top1=top1,
        max_abs=0.0,
        cosine=1.0,
        sequence=sequence,
    )
    return replace(usual, **changes)


def label(sequence: int, *, lane: int = 1, **changes: Any) -> Feedback:
    usual = Feedback(
        at_s=110.0,
        experiment=1,
        epoch=1,
        arm=0,
        flags=Flag.EVIDENCE,
        lane=lane,
        sequence=sequence,
        top1=1,
        is_label=False,
        value=1.0,
        metric="correct",
    )
    return replace(usual, **changes)


class Desk:
    """Journals records and closes windows over one store."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self._folder = folder
        self._lanes = 0

    def read(self, *records: Record) -> Evidence:
        """Journal records in a lane of their own, and read them."""
        self._lanes += 1
        writer = JournalWriter(self._folder, self._lanes)
        for record in records:
            writer.append(record)
        writer.close()
        ingest(self.store, self._folder)
        return self.seen()

    def close(self, now: float) -> Evidence:
        """Close the windows that are over."""
        LabelWindows(self.store).close(self.store.experiments(), now)
        return self.seen()

    def seen(self) -> Evidence:
        """All evidence so far."""
        return self.store.load_evidence("exp", 0)


@pytest.fixture
def desk(store: Store, document: dict[str, Any], tmp_path: Path) -> Desk:
    store.apply(document, "ada", 0.0)
    return Desk(store, tmp_path)


def cell_of(evidence: Evidence, variant: str = "base") -> Cell:
    [cell] = [cell for cell in evidence.cells if cell.variant == variant]
    return cell


def test_a_label_counts_when_its_requests_window_has_closed_and_not_before(desk: Desk) -> None:
    evidence = desk.read(routed(1), routed(2), routed(3), label(1), label(2, value=0.0))
    assert CORRECT not in cell_of(evidence).metrics
    assert cell_of(evidence).windows[CORRECT] == Window(opened=3)
    assert CORRECT not in cell_of(desk.close(CLOSED_S - 0.1)).metrics
    closed = cell_of(desk.close(CLOSED_S))
    assert closed.metrics[CORRECT] == {0: 1, 1: 1}
    assert closed.windows[CORRECT] == Window(opened=3, unlabelled=1)
    assert cell_of(desk.close(CLOSED_S + 1000.0)) == closed


def test_a_metric_without_a_window_counts_on_arrival(desk: Desk) -> None:
    evidence = desk.read(routed(1), label(1, metric="complaint"))
    assert cell_of(evidence).metrics["feedback.complaint"] == {1: 1}
    assert "feedback.complaint" not in cell_of(evidence).windows


def test_a_label_after_its_window_is_late_and_counts_for_nothing(desk: Desk) -> None:
    in_time, after = 100.0 + WINDOW_S, 100.0 + WINDOW_S + 0.5
    desk.read(routed(1), routed(2), label(1, at_s=in_time), label(2, at_s=after))
    closed = cell_of(desk.close(CLOSED_S))
    assert closed.metrics[CORRECT] == {1: 1}
    assert closed.windows[CORRECT] == Window(opened=2, unlabelled=1, late=1)
    later = cell_of(desk.read(label(2, at_s=after), label(1, metric="score", value=2.0)))
    assert later.metrics == closed.metrics
    assert later.windows["feedback.score"].late == 1


def test_a_label_that_is_read_before_its_request_counts(desk: Desk) -> None:
    desk.read(label(5, lane=2))
    desk.read(routed(5))
    assert cell_of(desk.close(CLOSED_S)).metrics[CORRECT] == {1: 1}


def test_mirrored_requests_wait_as_pairs_of_which_those_that_agree_need_no_label(desk: Desk) -> None:
    sampled = Flag.EVIDENCE | Flag.SAMPLED
    desk.read(
        *(routed(sequence, flags=sampled) for sequence in (1, 2, 3, 4)),
        pair(1, 1),
        pair(2, 0),
        pair(3, 0),
        pair(4, -1, status=13, agrees=False),
        label(2, flags=sampled, is_label=True, value=0.0),
        label(4, flags=sampled, is_label=True, value=1.0, at_s=100.0 + WINDOW_S + 1.0),
    )
    assert CORRECT not in desk.seen().pairs[0].metrics
    evidence = desk.close(CLOSED_S)
    [pairs] = evidence.pairs
    # The second: the candidate had the true class and the baseline had not. The third and fourth: nobody knows in time.
    assert pairs.metrics[CORRECT] == {1: 1, 2: 1}
    assert pairs.windows[CORRECT] == Window(opened=4, unlabelled=2)
    assert CORRECT not in cell_of(evidence).windows
    assert cell_of(evidence).windows["feedback.score"] == Window(opened=4, unlabelled=4)


def test_of_a_sticky_unit_only_the_first_request_waits(desk: Desk) -> None:
    sticky = Flag.EVIDENCE | Flag.STICKY
    unit = b"u" * 16
    desk.read(
        routed(1, flags=sticky, unit=unit),
        routed(2, flags=sticky, unit=unit),
        label(1, flags=sticky),
        label(2, flags=sticky, value=0.0),
    )
    closed = cell_of(desk.close(CLOSED_S))
    assert closed.metrics[CORRECT] == {1: 1}
    assert closed.windows[CORRECT] == Window(opened=1)


def test_epochs_and_arms_are_kept_apart(desk: Desk) -> None:
    desk.read(routed(1, arm=1), routed(2, arm=1, epoch=2), routed(3, arm=2), label(2, arm=1, epoch=2))
    cells = {(cell.epoch, cell.variant): cell for cell in desk.close(CLOSED_S).cells}
    assert cells[2, "a"].metrics[CORRECT] == {1: 1}
    assert cells[1, "a"].windows[CORRECT] == cells[1, "b"].windows[CORRECT] == Window(opened=1, unlabelled=1)


def test_a_death_while_windows_close_closes_them_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.read(routed(1), routed(2), label(1))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LabelWindows, "_count", die)
        with pytest.raises(KeyboardInterrupt):
            desk.close(CLOSED_S)
    assert CORRECT not in cell_of(desk.seen()).metrics
    closed = cell_of(desk.close(CLOSED_S))
    assert closed.metrics[CORRECT] == {1: 1}
    assert closed.windows[CORRECT] == Window(opened=2, unlabelled=1)


def test_what_waits_is_there_after_a_restart(
    store_url: str, document: dict[str, Any], tmp_path: Path
) -> None:
    first = open_store(store_url)
    first.apply(document, "ada", 0.0)
    Desk(first, tmp_path).read(routed(1), routed(2), label(1))
    first.close()
    second = open_store(store_url)
    assert cell_of(Desk(second, tmp_path).close(CLOSED_S)).metrics[CORRECT] == {1: 1}
    second.close()


def test_a_new_spec_version_begins_without_what_waited(desk: Desk, document: dict[str, Any]) -> None:
    desk.read(routed(1), label(1))
    desk.store.request("exp", Verb.ABORT, "", "ada", 1.0)
    _tick(desk, 1.0)
    changed = document | {"spec": document["spec"] | {"delta": 0.01}}
    again = desk.store.apply(changed, "ada", 2.0)
    assert again.spec_version == 2
    assert desk.close(CLOSED_S).is_empty


def test_what_waits_is_removed_long_after_the_end(desk: Desk) -> None:
    desk.read(routed(1), label(1))
    desk.store.request("exp", Verb.ABORT, "", "ada", 1.0)
    _tick(desk, 1.0)
    assert desk.store.upkeep.removable(2.0).waiting == 1
    assert desk.store.upkeep.compact(2.0) == Compacted(feedback=1, waiting=1)
    assert desk.store.upkeep.removable(2.0).waiting == 0


def test_decisions_on_closed_windows_are_computed_again(desk: Desk) -> None:
    _tick(desk, 1.0)
    _tick(desk, 2.0)
    epoch = desk.store.experiment("exp").state.epoch
    records: list[Record] = []
    for sequence in range(1, 401):
        arm = sequence % 3
        records.append(routed(sequence, arm=arm, epoch=epoch))
        if sequence % 10:
            records.append(label(sequence, arm=arm, epoch=epoch, value=float(sequence % 7 > 0 or arm != 1)))
    desk.read(*records)
    _tick(desk, 150.0)
    LabelWindows(desk.store).close(desk.store.experiments(), CLOSED_S)
    _tick(desk, CLOSED_S)
    state = desk.store.experiment("exp").state
    assert sum(totals.windows[CORRECT].unlabelled for totals in state.totals.values()) == 40
    assert "without a label in time" in state.verdicts["accuracy/a"].reason
    found = verify(desk.store, "exp")
    assert found.matches, found


def _tick(desk: Desk, now: float) -> None:
    kept = desk.store.experiment("exp")
    evidence = replace(desk.store.load_evidence("exp", kept.state.cursor), at_s=now)
    result = tick(parse(kept.document), kept.state, evidence, desk.store.pending("exp"), now)
    desk.store.save(
        "exp",
        expected=kept.state_version,
        state=result.state,
        evidence=evidence,
        decision=result.decision,
    )


def test_closing_asks_nothing_of_other_pairs(desk: Desk) -> None:
    evidence = desk.read(routed(1), pair(1, 0, arm=0))
    assert evidence.pairs[0] == PairCell(
        epoch=1, variant="base", pairs=1, metrics={"mirror.top1_agreement": {0: 1}}
    )
    ingestion: Ingestion
    with desk.store.ingestion() as ingestion:
        assert len(ingestion.due([1], CLOSED_S, limit=10)) == 1
