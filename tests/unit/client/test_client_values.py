"""Values of the client: outcomes, assignments, and what a notebook shows."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from anabranch.client.asks import MOST_OUTCOMES
from anabranch.client.errors import failed
from anabranch.client.feedback import Assignment, Outcome, assignment_of, batches
from anabranch.client.values import Action, Decision, Experiment, Removal, Verdict

HEAVY = (
    "sqlalchemy",
    "sqlmodel",
    "pydantic",
    "numpy",
    "scipy",
    "onnx",
    "torch",
    "yaml",
    "rich",
    "anabranch.wire",
)


def experiment(**given: Any) -> Experiment:
    fields: dict[str, Any] = {
        "id": 1,
        "name": "exp",
        "model": "m",
        "baseline": "base",
        "candidates": ("a", "b"),
        "phase": "Progressing",
        "is_over": False,
        "spec_version": 1,
        "state_version": 2,
        "applied_s": 0.0,
        "started_s": 0.0,
        "step": 1,
        "steps": 2,
        "weights": {"base": 0.95, "a": 0.05},
        "live": ("a",),
        "removed": (Removal(variant="b", at_s=1.0, reason="<b>worse</b>"),),
        "winner": None,
        "requests": {"base": 1234},
        "verdicts": (),
        "pending": (),
        "document": {},
    }
    return Experiment(**{**fields, **given})


def test_an_experiment_shows_itself_in_a_notebook_with_everything_escaped() -> None:
    html = experiment(name="<script>")._repr_html_()
    assert "<script>" not in html
    assert "<b>worse</b>" not in html
    assert "&lt;b&gt;worse&lt;/b&gt;" in html
    assert "1,234" in html
    assert "5%" in html


def test_a_verdict_is_found_by_metric_and_variant() -> None:
    verdict = Verdict(
        metric="errors",
        variant="a",
        outcome="PASS",
        samples=1,
        estimate=None,
        low=None,
        high=None,
        baseline=None,
        limit="",
        reason="r",
    )
    shown = experiment(verdicts=(verdict,))
    assert shown.verdict("errors", "a") is verdict
    assert shown.verdict("errors", "b") is None


def test_a_decision_sums_its_reasons_up() -> None:
    decision = Decision(
        spec_version=1,
        number=1,
        at_s=0.0,
        phase="Progressing",
        weights={},
        actions=(
            Action(change="phase", variant="", reason="one"),
            Action(change="step", variant="", reason="two"),
        ),
        handled=(),
        previous_hash="",
        hash="",
    )
    assert decision.summary == "one; two"
    assert "1970-01-01" in decision._repr_html_()


@pytest.mark.parametrize(
    "given", [{}, {"label": 1, "correct": True}, {"label": 1, "correct": True, "value": 0.0}]
)
def test_an_outcome_says_exactly_one_thing(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Outcome(assignment_id="x", **given)


def test_outcomes_go_in_calls_of_what_one_takes() -> None:
    given = [Outcome(assignment_id=str(number), label=0) for number in range(MOST_OUTCOMES + 5)]
    assert [len(batch) for batch in batches(given)] == [MOST_OUTCOMES, 5]
    assert list(batches([])) == []


def test_a_zero_or_a_no_is_an_outcome_too() -> None:
    ((label, correct, value),) = batches(
        [
            Outcome(assignment_id="x", label=0),
            Outcome(assignment_id="x", correct=False),
            Outcome(assignment_id="x", value=0.0, metric="stars"),
        ]
    )
    assert [each.WhichOneof("outcome") for each in (label, correct, value)] == ["label", "correct", "value"]
    assert value.metric == "stars"


def text(value: str) -> SimpleNamespace:
    return SimpleNamespace(string_param=value)


def test_an_assignment_is_read_from_an_answer_from_tritonclients_and_from_metadata() -> None:
    parameters = {"invoked_variant": text("v"), "assignment_id": text("i"), "experiment": text("e")}
    answer = SimpleNamespace(parameters=parameters)
    expected = Assignment(variant="v", id="i", experiment="e")
    assert assignment_of(answer) == expected
    assert assignment_of(SimpleNamespace(get_response=lambda: answer)) == expected
    metadata = [("x-invoked-variant", "v"), ("x-assignment-id", "i"), ("x-experiment", "e")]
    assert assignment_of(metadata) == expected
    assert assignment_of([("x-invoked-variant", "v")]) == Assignment(variant="v")
    assert assignment_of(SimpleNamespace(parameters={})) is None
    assert assignment_of(None) is None


@pytest.mark.parametrize(
    "module", ["anabranch.client.sync", "anabranch.client.aio", "anabranch.client.feedback"]
)
def test_the_client_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("first", ["tritonclient.grpc", "anabranch.client.sync"])
def test_the_client_lives_beside_tritonclient_in_one_process(first: str) -> None:
    second = {"tritonclient.grpc": "anabranch.client.sync"}.get(first, "tritonclient.grpc")
    program = f"import {first}, {second}; print('fine')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "fine", ran.stderr


def test_a_port_that_is_no_control_port_is_said() -> None:
    told = failed(grpc.StatusCode.UNIMPLEMENTED, "method /x is not served here", "127.0.0.1:8001")
    assert "127.0.0.1:8001 is no control port" in str(told)
    assert told.status == "UNIMPLEMENTED"
