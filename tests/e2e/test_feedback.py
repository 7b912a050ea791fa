"""Outcomes that clients report later: counted once, credited to who served, refused with a reason."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anabranch.proto.feedback_pb2 import Outcome

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]
Served = Any

ACCURACY = {
    "name": "accuracy",
    "source": "feedback.correct",
    "role": "guardrail",
    "nonInferiorityMargin": 0.1,
}
STARS = {"name": "stars", "source": "feedback.stars", "role": "signal", "range": [1, 5]}
HELD = [{"setWeight": 50}, {"pause": {}}]


def counted(served: Served, source: str) -> int:
    """Outcomes of a source in the experiment's evidence."""
    totals = served.experiment("rated").state.totals.values()
    return sum(sum(total.metrics.get(source, {}).values()) for total in totals)


def assigned(served: Served, wait_until: Wait, number: int) -> list[Any]:
    """Replies to requests of the split."""
    client = served.client()
    wait_until(lambda: client.infer(0).assignment_id, "the split is in force")
    return [client.infer(number) for number in range(number)]


def label(replies: Sequence[Any], digits: Any) -> list[Outcome]:
    return [Outcome(assignment_id=r.assignment_id, label=int(digits.test_labels[r.sent])) for r in replies]


def test_late_labels_are_counted_once_however_often_they_are_sent(
    serve: Serve, experiment: Make, wait_until: Wait, digits: Any
) -> None:
    served = serve()
    served.apply(experiment("rated", ["plain"], HELD, [ACCURACY, STARS]))
    replies = assigned(served, wait_until, 40)
    # Late: after the requests themselves have been counted.
    wait_until(lambda: served.requests_in_evidence("rated") >= 40, "the requests are counted")
    client = served.client()
    outcomes = label(replies, digits)
    for _ in range(3):
        assert all(result.accepted for result in client.give_feedback(outcomes))
    stars = [Outcome(assignment_id=r.assignment_id, metric="stars", value=4.0) for r in replies[:7]]
    assert all(result.accepted for result in client.give_feedback(stars))
    wait_until(lambda: counted(served, "feedback.stars") == 7, "the last outcomes are counted")
    assert counted(served, "feedback.correct") == 40

    assert served.stop() == 0
    again = serve()
    assert all(result.accepted for result in again.client().give_feedback(outcomes))
    assert again.stop() == 0
    assert counted(again, "feedback.correct") == 40


def test_labels_are_credited_to_the_variant_that_served(
    serve: Serve, experiment: Make, wait_until: Wait, digits: Any
) -> None:
    served = serve()
    served.apply(experiment("rated", ["corrupt"], HELD, [ACCURACY]))
    replies = assigned(served, wait_until, 80)
    client = served.client()
    client.give_feedback(label(replies, digits))
    wait_until(lambda: counted(served, "feedback.correct") == 80, "the labels are counted")
    totals = served.experiment("rated").state.totals
    for variant in ("wide", "corrupt"):
        mine = [reply for reply in replies if reply.variant == variant]
        right = sum(int(r.logits.argmax()) == int(digits.test_labels[r.sent]) for r in mine)
        seen = totals[variant].metrics["feedback.correct"]
        assert (seen.get(1, 0), seen.get(0, 0)) == (right, len(mine) - right)


def test_each_outcome_that_cannot_be_counted_is_refused_for_itself(
    serve: Serve, experiment: Make, wait_until: Wait
) -> None:
    served = serve()
    served.apply(experiment("rated", ["plain"], HELD, [ACCURACY, STARS]))
    reply = assigned(served, wait_until, 1)[0]
    good = reply.assignment_id
    forged = good[:-1] + ("A" if good[-1] != "A" else "B")
    results = served.client().give_feedback(
        [
            Outcome(assignment_id=forged, correct=True),
            Outcome(assignment_id="nonsense", correct=True),
            Outcome(assignment_id=good),
            Outcome(assignment_id=good, metric="mood", value=1.0),
            Outcome(assignment_id=good, metric="stars", value=6.0),
            Outcome(assignment_id=good, correct=True),
        ]
    )
    assert [result.accepted for result in results] == [False] * 5 + [True]
    said = [result.problem for result in results[:5]]
    assert "not given out by this installation" in said[0]
    assert "send it as it came with the answer" in said[1]
    assert said[2] == "the outcome is empty: set correct, label or value"
    assert said[3] == "metric 'mood' is not one of the experiment's: it uses correct, stars"
    assert said[4] == "stars is 6, must be from 1 to 5: widen range in the experiment"


def test_a_file_of_labels_is_imported_once_also_when_the_experiment_is_over(
    serve: Serve, experiment: Make, wait_until: Wait, digits: Any, tmp_path: Path
) -> None:
    served = serve()
    served.apply(experiment("rated", ["plain"], HELD, [ACCURACY, STARS]))
    replies = assigned(served, wait_until, 30)
    rows = [f"{each.assignment_id},{each.label}" for each in label(replies, digits)]
    forged = replies[0].assignment_id[:-2] + "AA"
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["assignment_id,label", *rows, f"{forged},1", *reversed(rows)]) + "\n")
    arguments = ("feedback", "import", str(path), "--server", served.address, "--batch", "7", "-o", "json")
    said = json.loads(served.cli(*arguments, code=1))
    assert said == {"rows": 61, "accepted": {"correct": 60}, "refused": 1}
    wait_until(lambda: counted(served, "feedback.correct") == 30, "the labels are counted")
    served.cli("abort", "rated", "--wait")
    assert json.loads(served.cli(*arguments, code=1)) == said
    assert served.stop() == 0
    assert counted(served, "feedback.correct") == 30


def test_labels_wait_for_the_end_of_their_window_over_a_crash_of_everything(
    serve: Serve, experiment: Make, wait_until: Wait, digits: Any
) -> None:
    served = serve()
    served.apply(experiment("rated", ["plain"], HELD, [ACCURACY | {"labelWindow": "20s"}]))
    replies = assigned(served, wait_until, 40)
    outcomes = label(replies[:30], digits)
    assert all(result.accepted for result in served.client().give_feedback(outcomes))
    wait_until(lambda: opened(served) >= 40, "the requests wait")
    assert counted(served, "feedback.correct") == 0
    served.kill_tree()
    again = serve()
    assert all(result.accepted for result in again.client().give_feedback(outcomes))
    wait_until(lambda: counted(again, "feedback.correct") == 30, "their windows are over")
    totals = again.experiment("rated").state.totals.values()
    windows = [total.windows["feedback.correct"] for total in totals if total.windows]
    # One at least was asked while the split came into force.
    assert sum(window.unlabelled for window in windows) == opened(again) - 30 >= 10
    again.client().give_feedback(label(replies[30:], digits))
    wait_until(lambda: late(again) == 10, "what comes now is late")
    assert counted(again, "feedback.correct") == 30
    assert "labels     feedback.correct, requests:" in again.cli("describe", "rated")
    assert "all the same" in again.cli("verify", "rated")


def opened(served: Served) -> int:
    """Requests that began to wait for a label."""
    return _windows(served, "opened")


def late(served: Served) -> int:
    """Labels that came too late."""
    return _windows(served, "late")


def _windows(served: Served, field: str) -> int:
    totals = served.experiment("rated").state.totals.values()
    return sum(
        getattr(total.windows["feedback.correct"], field)
        for total in totals
        if "feedback.correct" in total.windows
    )
