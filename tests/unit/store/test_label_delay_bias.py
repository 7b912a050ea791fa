"""What a comparison says when labels of one variant come slower: from the journal to the verdict, over closed windows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anabranch.bandit.verdicts import Outcome
from anabranch.store.ingest import ingest
from anabranch.store.journal import JournalWriter
from anabranch.store.memory import MemoryStore
from anabranch.store.records import Feedback, Flag, Routed
from anabranch.store.windows import LabelWindows

Delays = Mapping[str, tuple[float, float]]
"""By arm, after how many seconds a label comes that says wrong, and one that says right."""

EVEN: Delays = {"base": (1.0, 1.0), "a": (1.0, 1.0)}
SLOW_TO_PRAISE: Delays = {"base": (1.0, 1.0), "a": (1.0, 40.0)}
SLOW_TO_BLAME: Delays = {"base": (1.0, 1.0), "a": (40.0, 1.0)}
PER_TICK = 400
TICK_S = 5.0


def run(
    small_document: dict[str, Any],
    drive: Callable[..., Any],
    folder: Path,
    *,
    accuracy: Mapping[str, float],
    delays: Delays,
    window: str | None,
    lost: Mapping[str, float] | None = None,
    unlabelled: str | None = None,
) -> list[Outcome]:
    """The verdict on the candidate's accuracy, tick by tick, at an even split of two arms."""
    metric = {
        "name": "accuracy",
        "source": "feedback.correct",
        "role": "guardrail",
        "nonInferiorityMargin": 0.05,
    }
    if window is not None:
        metric |= {"labelWindow": window}
    if unlabelled is not None:
        metric |= {"unlabelled": unlabelled}
    spec = small_document["spec"] | {
        "candidates": ["a"],
        "metrics": [metric],
        "steps": [{"setWeight": 50}, {"analysis": {}}, {"pause": {}}],
    }
    store = MemoryStore()
    store.apply(small_document | {"spec": spec}, "ada", 0.0)
    drive(store, 0.0)
    drive(store, 0.0)
    kept = store.experiment("exp")
    assert kept.state.weights == {"base": 0.5, "a": 0.5}
    rng = np.random.default_rng(7)
    writer = JournalWriter(folder, 1)
    windows = LabelWindows(store)
    coming: list[Feedback] = []
    verdicts = []
    for turn in range(30):
        now = TICK_S * (turn + 1)
        for number in range(PER_TICK):
            arm = number % 2
            name = ("base", "a")[arm]
            common = {"experiment": 1, "epoch": kept.state.epoch, "arm": arm, "flags": Flag.EVIDENCE}
            sequence = turn * PER_TICK + number
            writer.append(
                Routed(
                    at_s=now,
                    status=0,
                    latency_ms=1.0,
                    queue_ms=0.0,
                    compute_ms=1.0,
                    batch_rows=1,
                    propensity=0.5,
                    sequence=sequence,
                    unit=bytes(16),
                    **common,  # type: ignore[arg-type]  # fields of several types
                )
            )
            right = bool(rng.random() < accuracy[name])
            if rng.random() < (lost or {}).get(name, 0.0):
                continue
            coming.append(
                Feedback(
                    at_s=now + delays[name][right],
                    lane=1,
                    sequence=sequence,
                    top1=-1,
                    is_label=False,
                    value=float(right),
                    metric="correct",
                    **common,  # type: ignore[arg-type]  # fields of several types
                )
            )
        for feedback in [each for each in coming if each.at_s <= now]:
            writer.append(feedback)
        coming = [each for each in coming if each.at_s > now]
        writer.commit()
        ingest(store, folder)
        windows.close(store.experiments(), now)
        drive(store, now)
        verdict = store.experiment("exp").state.verdicts.get("accuracy/a")
        verdicts.append(Outcome.INCONCLUSIVE if verdict is None else verdict.outcome)
    writer.close()
    return verdicts


@pytest.fixture
def course(
    small_document: dict[str, Any], drive: Callable[..., Any], tmp_path: Path
) -> Callable[..., list[Outcome]]:
    def start(**given: Any) -> list[Outcome]:
        return run(small_document, drive, tmp_path, **given)

    return start


SAME = {"base": 0.8, "a": 0.8}
WORSE = {"base": 0.8, "a": 0.6}


@pytest.mark.parametrize(("window", "is_harmed"), [(None, True), ("45s", False)])
def test_a_candidate_that_is_praised_slowly_is_not_harmed_by_it(
    course: Callable[..., list[Outcome]], window: str | None, is_harmed: bool
) -> None:
    verdicts = course(accuracy=SAME, delays=SLOW_TO_PRAISE, window=window)
    assert (Outcome.FAIL in verdicts) is is_harmed
    if not is_harmed:
        assert verdicts[-1] is Outcome.PASS


@pytest.mark.parametrize(("window", "is_favoured"), [(None, True), ("45s", False)])
def test_a_candidate_that_is_blamed_slowly_is_not_favoured_by_it(
    course: Callable[..., list[Outcome]], window: str | None, is_favoured: bool
) -> None:
    verdicts = course(accuracy=WORSE, delays=SLOW_TO_BLAME, window=window)
    assert (Outcome.PASS in verdicts) is is_favoured
    if not is_favoured:
        assert verdicts[-1] is Outcome.FAIL


def test_labels_that_come_alike_decide_alike_with_and_without_a_window(
    course: Callable[..., list[Outcome]],
) -> None:
    assert course(accuracy=SAME, delays=EVEN, window="1s")[-1] is Outcome.PASS


@pytest.mark.parametrize(
    ("unlabelled", "outcome"), [("against", Outcome.INCONCLUSIVE), ("left-out", Outcome.PASS)]
)
def test_labels_that_never_come_are_set_against_every_claim_or_left_out(
    course: Callable[..., list[Outcome]], unlabelled: str, outcome: Outcome
) -> None:
    lost = {"base": 0.3, "a": 0.3}
    verdicts = course(accuracy=SAME, delays=EVEN, window="1s", lost=lost, unlabelled=unlabelled)
    assert verdicts[-1] is outcome
