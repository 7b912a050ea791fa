"""Every document in `examples/`: right by the schema that editors use, and simulated to the end that it promises."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator

from anabranch.bandit.decision import Command, Verb
from anabranch.bandit.gating import answer_text, questions, waiting_gates
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.simulate import Arm, World, run
from anabranch.bandit.spec import Experiment
from anabranch.bandit.state import ExperimentState, Reply
from anabranch.bandit.step import Tick
from anabranch.store.document import document_warnings, json_schema, parse, read_document

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


def read(name: str) -> Experiment:
    return parse(read_document(next(path for path in EXAMPLES if path.stem == name).read_text()))


class Course:
    """A simulated run, with people and gates that answer what is asked."""

    def __init__(
        self,
        experiment: Experiment,
        arms: Mapping[str, Arm],
        *,
        interval_s: float = 5.0,
        gates: Mapping[str, Reply] | None = None,
        ticks: int = 900,
    ) -> None:
        self.experiment = experiment
        self.states: list[ExperimentState] = []
        self.reasons: list[str] = []
        asked: dict[int, Sequence[Command]] = dict.fromkeys(range(ticks), ())
        live = _Answers(asked)
        world = World(arms=lambda _: arms, requests_per_s=40.0)
        rng = np.random.default_rng(5)
        for number, result in enumerate(
            run(experiment, world, rng, interval_s=interval_s, max_ticks=ticks, commands=live)
        ):
            self._note(result)
            if not (result.state.phase.is_moving or result.state.phase is Phase.PENDING):
                break
            asked[number + 1] = tuple(self._answers(result.state, gates or {}, number))

    @property
    def phase(self) -> Phase:
        return self.states[-1].phase

    def _note(self, result: Tick) -> None:
        self.states.append(result.state)
        if result.decision is not None:
            self.reasons += [action.reason for action in result.decision.actions]

    def _answers(self, state: ExperimentState, gates: Mapping[str, Reply], number: int) -> Iterable[Command]:
        webhooks = {question.gate.name: question for question in questions(self.experiment, state)}
        for index, (name, question) in enumerate(webhooks.items()):
            reply = gates.get(name, Reply.NO)
            argument = answer_text(name, reply, question.occasion, "HTTP")
            yield Command(id=10 * number + index, verb=Verb.ANSWER, actor=f"gate:{name}", argument=argument)
        for gate in waiting_gates(self.experiment, state):
            if gate.webhook is None and gates.get(gate.name) is Reply.YES:
                yield Command(id=10 * number + 9, verb=Verb.APPROVE, actor="ada", argument=gate.name)


class _Answers(dict[int, Sequence[Command]]):
    """The requests by tick, which grow while the run goes on."""

    def __init__(self, growing: dict[int, Sequence[Command]]) -> None:
        super().__init__(growing)
        self._growing = growing

    def get(self, number: int, default: Any = ()) -> Any:
        return self._growing.get(number, default)


GOOD: Mapping[str, Arm] = {
    "onnx-fp32": Arm(median_ms=14.0, accuracy=0.91),
    "onnx-int8-dynamic": Arm(median_ms=8.0, accuracy=0.91, agreement=0.975),
    "onnx-mixed": Arm(median_ms=11.0, accuracy=0.99, agreement=0.985),
    "onnx-int8-static-kl": Arm(median_ms=8.0, accuracy=0.75, agreement=0.80),
}
BAD = {**GOOD, "onnx-int8-dynamic": Arm(median_ms=8.0, error_rate=0.4, accuracy=0.91, agreement=0.975)}
OPEN = {"change-window": Reply.YES, "smoke-test": Reply.YES, "go-live": Reply.YES, "first-look": Reply.YES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_right_by_the_schema_and_by_the_rules(path: Path) -> None:
    text = path.read_text()
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    found = [error.message for error in Draft202012Validator(schema).iter_errors(yaml.safe_load(text))]
    assert found == []
    assert parse(read_document(text)).name
    assert document_warnings(read_document(text)) == []


def test_the_schema_refuses_what_the_document_refuses() -> None:
    document = yaml.safe_load(EXAMPLES[0].read_text())
    document["spec"]["stepz"] = []
    document["spec"]["steps"][0] = {"gate": {"webhook": {"url": "https://x/y", "secret": {"env": "PATH"}}}}
    found = {error.json_path for error in Draft202012Validator(json_schema()).iter_errors(document)}
    assert "$.spec" in found
    assert len(found) >= 2, json.dumps(sorted(found))


def test_the_canary_is_promoted_and_a_sick_one_is_rolled_back() -> None:
    course = Course(read("canary"), GOOD)
    assert course.phase is Phase.PROMOTED, course.reasons
    shares = sorted(
        {round(state.weights["onnx-int8-dynamic"], 2) for state in course.states if state.weights}
    )
    assert shares == [0.05, 0.25, 0.5, 0.95, 1.0]
    assert Course(read("canary"), BAD).phase is Phase.ROLLED_BACK


def test_the_ab_test_names_the_better_one_and_promotes_nobody() -> None:
    course = Course(read("ab-test"), GOOD, interval_s=120.0)
    assert course.phase is Phase.PAUSED, course.reasons
    assert course.states[-1].weights == {"onnx-fp32": 0.5, "onnx-mixed": 0.5}
    verdict = course.states[-1].verdicts["accuracy/onnx-mixed"]
    assert verdict.outcome == "PASS"


def test_the_shadow_test_gives_no_candidate_a_request_and_names_who_would_be_promoted() -> None:
    course = Course(read("shadow"), GOOD)
    assert course.phase is Phase.INCONCLUSIVE
    assert all(state.weights["onnx-fp32"] == 1.0 for state in course.states)
    assert any("onnx-int8-static-kl would be removed: fidelity" in reason for reason in course.reasons)
    assert any("onnx-int8-dynamic would be promoted" in reason for reason in course.reasons)
    # A dry run is judged and shown, and nobody is removed or waited for because of it.
    assert course.states[-1].verdicts["strict/onnx-int8-dynamic"].samples > 0
    assert course.states[-1].live == ("onnx-int8-dynamic",)


def test_the_bandit_promotes_the_fastest_sound_variant() -> None:
    course = Course(read("bandit"), GOOD)
    assert (course.phase, course.states[-1].winner) == (Phase.PROMOTED, "onnx-int8-dynamic"), course.reasons
    sick = Course(read("bandit"), BAD)
    assert (sick.phase, sick.states[-1].winner) == (Phase.PROMOTED, "onnx-mixed"), sick.reasons


def test_the_cheapest_feasible_variant_wins_and_its_saving_is_told() -> None:
    course = Course(read("cheapest"), GOOD)
    assert (course.phase, course.states[-1].winner) == (Phase.PROMOTED, "onnx-int8-dynamic"), course.reasons
    # The cheapest of all loses accuracy.
    assert [removal.variant for removal in course.states[-1].removed][:1] == ["onnx-int8-static-kl"]
    committed = next(reason for reason in course.reasons if "is the new baseline" in reason)
    told = re.search(
        r"1,000 requests cost (\S+) on average, (\S+) % less than the baseline's (\S+)$",
        committed.replace("%", " %"),
    )
    assert told, committed
    mine, saved, base = map(float, told.groups())
    # Lognormal: the mean is exp(0.3² / 2) times the median, and 8 ms at 0.048 stand against 14 ms at 0.19.
    assert base == pytest.approx(14.0 * 1.046 * 0.19 / 3_600, rel=0.05)
    assert mine == pytest.approx(8.0 * 1.046 * 0.048 / 3_600, rel=0.05)
    assert saved == pytest.approx(100.0 * (1.0 - mine / base), abs=0.1)


def test_a_dear_variant_that_is_quicker_does_not_win() -> None:
    experiment = read("cheapest")
    dear = replace(experiment, hourly_prices=(0.19, 0.9, 0.9, 0.024))
    course = Course(dear, GOOD)
    assert course.phase is not Phase.PROMOTED, course.reasons


def test_the_full_pipeline_goes_through_every_gate() -> None:
    course = Course(read("full-pipeline"), GOOD, gates=OPEN)
    assert (course.phase, course.states[-1].winner) == (Phase.PROMOTED, "onnx-int8-dynamic"), course.reasons
    opened = [name for name in OPEN if any(f"gate {name} is" in reason for reason in course.reasons)]
    assert opened == list(OPEN)


@pytest.mark.parametrize("closed", OPEN)
def test_the_full_pipeline_stands_still_before_a_gate_that_stays_closed(closed: str) -> None:
    replies = {**OPEN, closed: Reply.UNKNOWN}
    course = Course(read("full-pipeline"), GOOD, gates=replies, ticks=100)
    assert course.phase in (Phase.PENDING, Phase.PROGRESSING), course.reasons
    assert closed in {gate.name for gate in waiting_gates(course.experiment, course.states[-1])}
    assert max(
        state.weights.get(name, 0.0) for state in course.states for name in course.experiment.candidates
    ) <= (0.45 if closed == "go-live" else 0.05)


def test_the_full_pipeline_is_rolled_back_by_an_incident_and_by_a_failed_smoke_test() -> None:
    incident = Course(read("full-pipeline"), GOOD, gates={**OPEN, "incident": Reply.YES})
    assert incident.phase is Phase.ROLLED_BACK
    assert any("rolled back by gate incident" in reason for reason in incident.reasons)
    smoke = Course(read("full-pipeline"), GOOD, gates={**OPEN, "smoke-test": Reply.NO})
    assert smoke.phase is Phase.ROLLED_BACK
    assert any("gate smoke-test refused 3 times > failureLimit 2" in reason for reason in smoke.reasons)
    assert all(
        state.weights.get(name, 0.0) == 0.0 for state in smoke.states for name in smoke.experiment.candidates
    )
