import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.bandit.evidence import Cell, Evidence, PairCell
from anabranch.bandit.hooks import (
    Format,
    Gate,
    GateKind,
    Notification,
    Secret,
    SecretPlace,
    Webhook,
)
from anabranch.bandit.spec import (
    Algorithm,
    AnalysisStep,
    BanditStep,
    GateStep,
    MirrorStep,
    PromoteStep,
    Role,
    SetWeightStep,
    Statistic,
    Unlabelled,
)
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.step import tick
from anabranch.store.document import InvalidDocument, json_schema, parse, read_document
from anabranch.store.document_problems import warnings_of
from anabranch.store.document_schema import ExperimentDocument

DEMO = Path(__file__).parents[3] / "examples" / "minilm-int8.yaml"

DESIGN = """
apiVersion: anabranch/v1
kind: Experiment
metadata: {name: minilm-int8}
spec:
  model: minilm
  baseline: onnx-fp32
  candidates: [onnx-int8-dynamic, onnx-mixed, onnx-int8-static-kl]
  unit: {metadata: x-user-id}
  metrics:
    - {name: latency, source: latency_ms, role: objective, statistic: p95, direction: min}
    - {name: fidelity, source: mirror.top1_agreement, role: guardrail, min: 0.99}
    - {name: accuracy, source: feedback.correct, role: guardrail, nonInferiorityMargin: 0.01}
    - {name: errors, source: error, role: guardrail, nonInferiorityMargin: 0.002}
    - {name: slo, source: latency_ms, role: guardrail, statistic: p99, max: 50}
  delta: 0.05
  steps:
    - mirror: {percent: 20, until: {fidelity: decided}, maxDuration: 10m}
    - setWeight: 5
    - analysis: {minDuration: 2m}
    - bandit: {algorithm: thompson, maxWeight: 50, minProb: 0.02, updatePeriod: 10s, maxDuration: 1h}
    - promote: {steps: [75, 100], bake: 10m}
  onNoData: hold
"""


def problems(document: Any) -> list[str]:
    try:
        parse(document)
    except InvalidDocument as invalid:
        return invalid.problems
    return []


def test_a_full_document_is_read_field_by_field() -> None:
    experiment = parse(read_document(DESIGN))
    assert experiment.arms == ("onnx-fp32", "onnx-int8-dynamic", "onnx-mixed", "onnx-int8-static-kl")
    assert (experiment.unit_metadata, experiment.delta, experiment.rollback_delta) == (
        "x-user-id",
        0.05,
        0.01,
    )
    assert [metric.role for metric in experiment.metrics] == [Role.OBJECTIVE] + [Role.GUARDRAIL] * 4
    assert experiment.metrics[4].statistic is Statistic.P99
    assert experiment.steps == (
        MirrorStep(fraction=0.2, until_decided=("fidelity",), max_duration_s=600.0),
        SetWeightStep(weight=0.05),
        AnalysisStep(min_duration_s=120.0, max_duration_s=None),
        BanditStep(
            algorithm=Algorithm.THOMPSON,
            max_weight=0.5,
            min_prob=0.02,
            update_period_s=10.0,
            min_duration_s=0.0,
            max_duration_s=3600.0,
        ),
        # 5 % is held back by itself: the accuracy guardrail compares with the baseline.
        PromoteStep(weights=(0.75, 1.0), interval_s=60.0, bake_s=600.0, hold_back=0.05),
    )


def test_the_demos_document_is_valid() -> None:
    assert parse(read_document(DEMO.read_text())).name == "minilm-int8"


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = document
        for part in parents:
            place = place[int(part)] if part.isdigit() else place[part]
        place[int(last) if isinstance(place, list) else last] = value

    return change


# By what it does wrong: the change, and a part of the problem that it must cause.
FIELD_PROBLEMS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "kind": (_set("kind", "Model"), "kind: "),
    "name": (_set("metadata.name", "No Good"), "metadata.name: "),
    "unknown field": (_set("spec.deltaa", 0.1), "spec.deltaa: unknown field, did you mean delta?"),
    "delta": (_set("spec.delta", 0.7), "spec.delta: "),
    "role": (_set("spec.metrics.0.role", "judge"), "spec.metrics[0].role: "),
    "no number": (_set("spec.metrics.1.min", float("nan")), "spec.metrics[1].min: "),
    "duration": (
        _set("spec.steps.2.analysis.minDuration", "2 minutes"),
        "spec.steps[2].analysis.minDuration: '2 minutes' is not a duration",
    ),
    "mirror percent": (_set("spec.steps.0.mirror.percent", 0), "spec.steps[0].mirror.percent: "),
    "no data": (_set("spec.onNoData", "promote"), "spec.onNoData: "),
}
FIELD_PROBLEMS |= {
    "argo's limit": (
        _set("spec.steps.2.analysis.failureLimit", 3),
        "spec.steps[2].analysis.failureLimit: a FAIL is a proof",
    ),
    "argo's interval": (
        _set("spec.metrics.1.interval", "5m"),
        "spec.metrics[1].interval: evidence is judged at every tick",
    ),
}
RULE_PROBLEMS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "divergence without a max": (
        _set("spec.metrics.1.source", "mirror.kl"),
        "spec.metrics[1] (fidelity): a divergence guardrail has a max in nats",
    ),
    "divergence as the objective": (
        lambda document: document["spec"]["metrics"].append(
            {"name": "nats", "source": "mirror.kl", "role": "objective"}
        ),
        "spec.metrics[5] (nats): what copies say of a candidate cannot be the objective",
    ),
    "baseline is candidate": (
        _set("spec.candidates.0", "onnx-fp32"),
        "spec.candidates: onnx-fp32 is the baseline",
    ),
    "twice": (_set("spec.candidates.1", "onnx-int8-static-kl"), "onnx-int8-static-kl is listed 2 times"),
    "source": (
        _set("spec.metrics.3.source", "vibes"),
        "spec.metrics[3] (errors): source 'vibes' is not measured",
    ),
    "latency mean": (
        _set("spec.metrics.0.statistic", "mean"),
        "spec.metrics[0] (latency): a latency is judged by a quantile",
    ),
    "fidelity at its end": (
        _set("spec.metrics.1.min", 1.0),
        "spec.metrics[1] (fidelity): min 1 must be strictly between 0 and 1",
    ),
    "margin too wide": (
        _set("spec.metrics.2.nonInferiorityMargin", 0.9),
        "spec.metrics[2] (accuracy): nonInferiorityMargin 0.9 must be at most half",
    ),
    "prices of nobody": (
        _set("spec.hourlyPrices", {"onnx-fp8": 1.0}),
        "spec.hourlyPrices.onnx-fp8: no variant of the experiment",
    ),
    "dry-run signal": (
        _set("spec.metrics.0.dryRun", True),
        "spec.metrics[0] (latency): dryRun is for a guardrail",
    ),
    "latency limit": (_set("spec.metrics.4.max", -3), "spec.metrics[4] (slo): max -3 must be above"),
    "weight": (
        _set("spec.steps.1", {"setWeight": 60}),
        "spec.steps[1].setWeight: 60 % for each of 3 candidates",
    ),
    "floor": (
        _set("spec.steps.3.bandit.minProb", 0.4),
        "spec.steps[3].bandit.minProb: 0.4 for each of 3 candidates",
    ),
    "promote": (
        _set("spec.steps.4.promote.steps", [100, 75]),
        "spec.steps[4].promote.steps: [100.0, 75.0] must rise",
    ),
    "until unknown": (
        _set("spec.steps.0.mirror.until", {"nobody": "decided"}),
        "mirror.until.nobody: no guardrail of that name",
    ),
}


@settings(max_examples=40, deadline=None)
@given(chosen=st.sets(st.sampled_from(sorted(FIELD_PROBLEMS)), min_size=1))
def test_any_set_of_wrong_fields_is_reported_whole(chosen: set[str]) -> None:
    document = read_document(DESIGN)
    for name in chosen:
        FIELD_PROBLEMS[name][0](document)
    found = problems(document)
    assert len(found) == len(chosen)
    for name in chosen:
        assert any(FIELD_PROBLEMS[name][1] in problem for problem in found), (name, found)


@settings(max_examples=40, deadline=None)
@given(
    # Both of these are about the objective, and only one can be there.
    chosen=st.sets(st.sampled_from(sorted(RULE_PROBLEMS)), min_size=1).filter(
        lambda chosen: not {"latency mean", "divergence as the objective"} <= chosen
    )
)
def test_any_set_of_broken_rules_is_reported_whole(chosen: set[str]) -> None:
    document = read_document(DESIGN)
    for name in chosen:
        RULE_PROBLEMS[name][0](document)
    found = problems(document)
    for name in chosen:
        assert any(RULE_PROBLEMS[name][1] in problem for problem in found), (name, found)


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        (
            {"name": "x", "source": "feedback.correct", "role": "signal", "range": [0, 5]},
            "another range or direction than in accuracy",
        ),
        (
            {"name": "x", "source": "feedback.correct", "role": "signal", "direction": "min"},
            "another range or direction than in accuracy",
        ),
        (
            {"name": "x", "source": "feedback.stars", "role": "guardrail", "range": [1, 5], "min": 5},
            "min 5 must be strictly between 1 and 5",
        ),
        (
            {"name": "x", "source": "feedback.stars", "role": "guardrail", "range": [5, 1], "min": 3},
            "low < high",
        ),
        (
            {"name": "x", "source": "error", "role": "guardrail", "max": 0},
            "max 0 must be strictly between 0 and 1",
        ),
        (
            {"name": "x", "source": "latency_ms", "role": "guardrail", "statistic": "p99", "max": 1e9},
            "max 1e+09 must be above 0.01 and at most 10",
        ),
        (
            {"name": "x", "source": "error", "role": "guardrail"},
            "exactly one of min, max and nonInferiorityMargin, 0 given",
        ),
        ({"name": "x", "source": "error", "role": "signal", "max": 0.5}, "only a guardrail has"),
        (
            {"name": "x", "source": "feedback.correct", "role": "signal", "labelWindow": "1h"},
            "another labelWindow than in accuracy",
        ),
        (
            {"name": "x", "source": "error", "role": "signal", "labelWindow": "1h"},
            "labelWindow is for feedback, error is known with the answer",
        ),
        (
            {"name": "x", "source": "feedback.stars", "role": "signal", "labelWindow": "0s"},
            "labelWindow must be above 0",
        ),
        (
            {"name": "x", "source": "feedback.stars", "role": "signal", "unlabelled": "left-out"},
            "what counts when a labelWindow closes, and there is none",
        ),
        (
            {"name": "x", "source": "error", "role": "objective", "statistic": "p99"},
            "needs a latency or a cost",
        ),
        ({"name": "x", "source": "error", "role": "objective"}, "2 objectives (latency, x)"),
        ({"name": "latency", "source": "error", "role": "signal"}, "the name is used twice"),
    ],
)
def test_an_impossible_metric_is_refused_with_its_place_and_reason(
    metric: dict[str, Any], problem: str
) -> None:
    document = read_document(DESIGN)
    document["spec"]["metrics"].append(metric)
    assert any(problem in found for found in problems(document)), problems(document)


def test_a_mirror_cannot_wait_for_what_mirrored_requests_do_not_say() -> None:
    document = read_document(DESIGN)
    document["spec"]["steps"][0]["mirror"]["until"] = {
        "errors": "decided",
        "slo": "decided",
        "accuracy": "decided",
    }
    assert problems(document) == [
        f"spec.steps[0].mirror.until.{name}: mirrored requests do not decide it, leave it to an analysis or bandit step"
        for name in ("errors", "slo")
    ]


def test_a_promotion_with_nothing_to_prove_is_refused() -> None:
    document = read_document(DESIGN)
    document["spec"]["metrics"] = [{"name": "errors", "source": "error", "role": "signal"}]
    document["spec"]["steps"] = [{"setWeight": 5}, {"promote": {}}]
    assert any("nothing would have to be proven" in problem for problem in problems(document))


@pytest.mark.parametrize(
    "text", ["[1, 2", "- a\n- b", "", "3", "2024-02-30", "[" * 5000, "a: !!python/object:x y"]
)
def test_a_text_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(InvalidDocument):
        read_document(text)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, inner in items for path in _paths(inner, (*at, key)))]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), wrong=values)
def test_any_value_in_any_place_gives_an_experiment_or_problems(data: st.DataObject, wrong: Any) -> None:
    document = read_document(DESIGN)
    *parents, last = data.draw(st.sampled_from(_paths(document)[1:]))
    place: Any = document
    for part in parents:
        place = place[part]
    place[last] = wrong
    assert all(problem.strip() for problem in problems(document))


@settings(max_examples=60, deadline=None)
@given(text=values.map(lambda value: yaml.safe_dump(value)) | st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        document = read_document(text)
    except InvalidDocument as invalid:
        document = {"problems": invalid.problems}
    assert problems(document)


sources = st.sampled_from(
    ["error", "feedback.correct", "feedback.stars", "mirror.top1_agreement", "mirror.kl", "latency_ms"]
)
metrics = st.fixed_dictionaries(
    {"source": sources, "role": st.sampled_from(["guardrail", "objective", "signal"])},
    optional={
        "statistic": st.sampled_from(["mean", "p50", "p99"]),
        "direction": st.sampled_from(["min", "max"]),
        "min": st.floats(-1, 6),
        "max": st.floats(-1, 2e5),
        "nonInferiorityMargin": st.floats(0, 3),
        "range": st.sampled_from([[0, 1], [1, 5], [0, 100]]),
    },
)


@settings(max_examples=300, deadline=None)
@given(chosen=st.lists(metrics, min_size=1, max_size=2))
def test_whatever_document_is_accepted_can_be_judged(chosen: list[dict[str, Any]]) -> None:
    document = copy.deepcopy(read_document(DESIGN))
    document["spec"]["metrics"] = [{"name": f"m{index}", **metric} for index, metric in enumerate(chosen)]
    document["spec"]["steps"] = [
        {"mirror": {"percent": 10, "maxDuration": "1s"}},
        {"setWeight": 20},
        {"pause": {}},
    ]
    if problems(document):
        return
    experiment = parse(document)
    state = ExperimentState()
    for now in range(4):
        cells = tuple(
            Cell(
                epoch=state.epoch,
                variant=arm,
                units=30,
                requests=30,
                metrics={
                    metric.source: {0: 15, 1: 15} for metric in experiment.metrics if not metric.is_fidelity
                },
            )
            for arm in experiment.arms
        )
        pairs = tuple(
            PairCell(
                epoch=state.epoch,
                variant=arm,
                pairs=9,
                metrics={"mirror.top1_agreement": {0: 2, 1: 7}, "mirror.kl": {0: 7, 2000: 2}},
            )
            for arm in experiment.candidates
        )
        evidence = Evidence(
            experiment=experiment.name,
            first=now,
            last=now,
            cells=cells,
            pairs=pairs,
            weights={state.epoch: dict(state.weights)},
        )
        state = tick(experiment, state, evidence, (), float(now)).state
    assert not [verdict for verdict in state.verdicts.values() if verdict.outcome == "ERROR"]


def test_the_schema_for_editors_takes_durations_as_they_are_written() -> None:
    definitions = json_schema()["$defs"]
    written = definitions["MirrorDocument"]["properties"]["maxDuration"]
    assert written["type"] == "string"
    assert all(re.search(written["pattern"], text) for text in ("90s", "1h30m", "1.5h", "10ms"))
    assert not any(re.search(written["pattern"], text) for text in ("90", "1hour", "", "-1s"))


def test_the_schema_for_editors_names_every_field_as_it_is_written() -> None:
    schema = json_schema()
    assert schema["properties"].keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert "nonInferiorityMargin" in schema["$defs"]["MetricDocument"]["properties"]


def test_the_rules_beside_the_steps_are_read_in_the_units_of_the_core() -> None:
    document = yaml.safe_load(DESIGN)
    body = document["spec"]
    body |= {"minAge": "1d", "exposureBudget": 200, "futilityBeta": 0.1}
    body["metrics"][0]["plannedBenefit"] = 0.1
    body["steps"][3]["bandit"]["memory"] = "6h"
    body["steps"][4]["promote"]["holdBack"] = 5
    parsed = parse(document)
    assert (parsed.min_age_s, parsed.exposure_budget, parsed.futility_beta) == (86_400.0, 200.0, 0.1)
    assert parsed.metrics[0].planned_benefit == 0.1
    assert parsed.bandit is not None
    assert parsed.bandit.memory_s == 6 * 3_600.0
    assert parsed.steps[4] == PromoteStep(weights=(0.75, 1.0), interval_s=60.0, bake_s=600.0, hold_back=0.05)


def test_a_planned_benefit_belongs_to_an_objective_and_leaves_something_to_gain() -> None:
    document = yaml.safe_load(DESIGN)
    document["spec"]["metrics"][0]["plannedBenefit"] = 1.0
    document["spec"]["metrics"][2]["plannedBenefit"] = 0.1
    document["spec"]["steps"][3]["bandit"]["memory"] = "0s"
    found = "\n".join(problems(document))
    assert "plannedBenefit 1 is as much as there is" in found
    assert "(accuracy): only an objective has a plannedBenefit" in found
    assert "bandit.memory: must be above 0" in found


def test_problems_between_fields_are_told_beside_wrong_fields() -> None:
    document = read_document(DESIGN)
    document["spec"]["steps"][2]["analysis"]["minDuration"] = "2 minutes"
    document["spec"]["metrics"][1]["min"] = 1.0
    document["spec"]["steps"][3]["bandit"]["minProb"] = 0.4
    with pytest.raises(InvalidDocument) as raised:
        parse(document)
    assert [problem.partition(":")[0] for problem in raised.value.problems] == [
        "spec.steps[2].analysis.minDuration",
        "spec.metrics[1] (fidelity)",
        "spec.steps[3].bandit.minProb",
    ]


def test_gates_notifications_and_modes_are_read() -> None:
    document = read_document(DESIGN)
    webhook = {
        "url": "https://hooks.example.com/x",
        "secret": {"file": "ci.key"},
        "timeout": "5s",
        "retries": 0,
    }
    document["spec"] |= {
        "mode": "observe",
        "gates": [{"name": "ok", "type": "confirm-promotion", "webhook": webhook, "interval": "1m"}],
        "notifications": [{"name": "chat", "webhook": webhook, "format": "slack", "phases": ["Promoted"]}],
    }
    document["spec"]["steps"].insert(1, {"gate": {"name": "look", "maxDuration": "1d"}})
    document["spec"]["metrics"][3]["dryRun"] = True
    parsed = parse(document)
    secret = Secret(place=SecretPlace.FILE, name="ci.key")
    hook = Webhook(url="https://hooks.example.com/x", secret=secret, timeout_s=5.0, retries=0)
    assert parsed.gates == (Gate(name="ok", kind=GateKind.CONFIRM_PROMOTION, webhook=hook, interval_s=60.0),)
    assert parsed.notifications == (
        Notification(name="chat", webhook=hook, format=Format.SLACK, phases=("Promoted",)),
    )
    assert parsed.steps[1] == GateStep(gate=Gate(name="look", kind=GateKind.STEP), max_duration_s=86_400.0)
    assert parsed.observes
    assert [metric.name for metric in parsed.guardrails] == ["fidelity", "accuracy", "slo"]
    assert parsed.all_gates == (*parsed.gates, parsed.steps[1].gate)


@pytest.mark.parametrize(
    ("promote", "held", "warned"),
    [
        ({"bake": "10m"}, 0.05, False),
        ({"bake": "10m", "holdBack": 0}, 0.0, True),
        ({"bake": "10m", "holdBack": 2}, 0.02, False),
        ({}, 0.0, True),
    ],
)
def test_a_relative_guardrail_keeps_something_to_compare_with_or_a_warning_says_why_not(
    promote: dict[str, Any], held: float, warned: bool
) -> None:
    document = read_document(DESIGN)
    document["spec"]["steps"][4] = {"promote": promote}
    step = parse(document).steps[4]
    assert isinstance(step, PromoteStep)
    assert step.hold_back == held
    told = warnings_of(ExperimentDocument.model_validate(document).spec)
    assert ["accuracy, errors cannot be compared" in warning for warning in told] == [True] * warned


@pytest.mark.parametrize(
    ("window", "warned"),
    [("1h", ["spec.steps[2].analysis.maxDuration", "1800 s are over before"]), ("10m", [])],
)
def test_a_label_window_reaches_the_metric_and_one_that_outlasts_a_step_is_warned_of(
    window: str, warned: list[str]
) -> None:
    document = read_document(DESIGN)
    accuracy = next(each for each in document["spec"]["metrics"] if each["name"] == "accuracy")
    accuracy |= {"labelWindow": window, "unlabelled": "left-out"}
    document["spec"]["steps"][2] = {"analysis": {"maxDuration": "30m"}}
    document["spec"]["steps"][3]["bandit"]["maxDuration"] = "2h"
    metric = next(each for each in parse(document).metrics if each.name == "accuracy")
    assert metric.label_window_s == {"1h": 3600.0, "10m": 600.0}[window]
    assert metric.unlabelled is Unlabelled.LEFT_OUT
    found = [
        each
        for each in warnings_of(ExperimentDocument.model_validate(document).spec)
        if "label window" in each
    ]
    assert len(found) == bool(warned)
    assert all(part in found[0] for part in warned)


def _hooked(**webhook: Any) -> dict[str, Any]:
    return {"name": "g", "type": "rollback", "webhook": {"url": "https://h/x"} | webhook}


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        ({"name": "g", "type": "confirm-rolout"}, "spec.gates[0].type: "),
        (_hooked(url="http://me:pw@h/x"), "spec.gates[0].webhook.url: "),
        (_hooked(url="file:///etc/passwd"), "spec.gates[0].webhook.url: "),
        (_hooked(secret={"env": "PATH"}), "spec.gates[0].webhook.secret.env: "),
        (_hooked(secret={"file": "../../etc/passwd"}), "spec.gates[0].webhook.secret.file: "),
        (_hooked(secret={"value": "x"}), "spec.gates[0].webhook.secret.value: unknown field"),
        (_hooked(secret={}), "spec.gates[0] (g).webhook.secret: exactly one of env and file"),
        (_hooked(timeout="5m"), "spec.gates[0] (g).webhook.timeout: 300 s must be above 0 and at most 60 s"),
        (_hooked() | {"interval": "10ms"}, "spec.gates[0] (g): interval 0.01 s must be at least 1 s"),
        (
            _hooked() | {"consecutiveErrorLimit": 4},
            "spec.gates[0].consecutiveErrorLimit: a gate that gives no clear",
        ),
        ({"name": "back", "type": "rollback"}, "spec.gates[0] (back): a rollback gate needs a webhook"),
        (
            {"name": "ok", "type": "confirm-rollout", "failureLimit": 2},
            "spec.gates[0] (ok): a confirm-rollout gate waits for as long as it is closed",
        ),
    ],
)
def test_a_gate_that_cannot_work_is_refused_with_the_reason(gate: dict[str, Any], problem: str) -> None:
    document = read_document(DESIGN)
    document["spec"]["gates"] = [gate]
    with pytest.raises(InvalidDocument) as raised:
        parse(document)
    [found] = raised.value.problems
    assert found.startswith(problem)


def test_two_gates_of_one_name_are_refused() -> None:
    document = read_document(DESIGN)
    document["spec"]["gates"] = [{"name": "ok", "type": "confirm-rollout"}]
    document["spec"]["steps"].insert(0, {"gate": {"name": "ok"}})
    assert problems(document) == ["spec: 2 gates are called ok, rename all but one"]
