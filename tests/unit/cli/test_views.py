import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from anabranch.bandit.evidence import Window
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.measures import LATENCY_SCALE
from anabranch.bandit.spec import LATENCY
from anabranch.bandit.state import ExperimentState, Totals
from anabranch.cli.decision_views import decision_views
from anabranch.cli.format import Format
from anabranch.cli.output import encoded, json_line
from anabranch.cli.row_views import experiment_row
from anabranch.cli.story import labels_told
from anabranch.cli.view_types import ArmState, ExperimentView, Limit, Unit
from anabranch.cli.views import DECISIONS_SHOWN, experiment_view, with_rates
from anabranch.store.document import parse
from anabranch.store.port import StoredDecision, StoredExperiment

Recorded = Callable[[str], tuple[StoredExperiment, list[StoredDecision]]]
ViewOf = Callable[[str, float], ExperimentView]


def test_the_fields_of_json_are_these(view_of: ViewOf, golden: Callable[[str, str], None]) -> None:
    golden("bandit.view.json", encoded(view_of("bandit", 140.5), Format.JSON) + "\n")


def test_the_fields_of_a_row_are_these(recorded: Recorded, golden: Callable[[str, str], None]) -> None:
    stored, _ = recorded("bandit")
    golden(
        "bandit.row.yaml",
        encoded([experiment_row(stored, parse(stored.document), 140.5)], Format.YAML) + "\n",
    )


def test_what_became_of_label_windows_is_told_for_each_variant(recorded: Recorded) -> None:
    stored, _ = recorded("bandit")
    experiment = parse(stored.document)
    totals = Totals(
        requests=20,
        metrics={"feedback.correct": {0: 2, 1: 8}},
        windows={"feedback.correct": Window(opened=17, unlabelled=4, late=1)},
    )
    held = replace(stored, state=replace(stored.state, totals={experiment.baseline: totals}))
    arm = experiment_view(held, experiment, [], 140.5).arms[0]
    [labels] = arm.labels
    assert (labels.labelled, labels.unlabelled, labels.waiting, labels.late) == (10, 4, 3, 1)
    assert labels_told(labels) == (
        "feedback.correct, requests: 10 count with a label, 4 had none in time, 3 wait; 1 labels came too late"
    )


def test_an_experiment_that_has_not_begun_has_no_step_and_no_time(recorded: Recorded) -> None:
    stored, _ = recorded("bandit")
    pending = replace(stored, state=ExperimentState())
    experiment = parse(stored.document)
    row = experiment_row(pending, experiment, 60.0)
    assert (row.phase, row.step, row.step_name, row.step_elapsed_s) == ("Pending", 0, "", None)
    assert (row.live, row.candidates, row.age_s) == (3, 3, 60.0)
    view = experiment_view(pending, experiment, [], 60.0)
    assert view.elapsed_s is None
    assert {arm.state for arm in view.arms} == {ArmState.BASELINE, ArmState.WAITING}
    assert view.arms[0].share_observed is None
    assert view.arms[1].p99_ms is None
    assert all(verdict.reason == "no data yet" for verdict in view.arms[1].verdicts)


def test_the_time_of_an_experiment_that_is_over_stands_still(view_of: ViewOf) -> None:
    assert view_of("promoted", 1_000.0).elapsed_s == view_of("promoted", 9_000.0).elapsed_s == 201.0


def test_observed_shares_add_up_and_weights_are_the_states(recorded: Recorded, view_of: ViewOf) -> None:
    stored, _ = recorded("bandit")
    view = view_of("bandit", 140.0)
    assert sum(arm.share_observed or 0.0 for arm in view.arms) == pytest.approx(1.0)
    assert {arm.name: arm.weight for arm in view.arms} == dict(stored.state.weights)


def test_the_shown_agreement_is_the_one_the_verdict_used(view_of: ViewOf) -> None:
    arm = view_of("bandit", 140.0).arms[1]
    used = next(verdict for verdict in arm.verdicts if verdict.metric == "fidelity")
    assert arm.agreement is not None
    assert (arm.agreement.estimate, arm.agreement.low, arm.agreement.high) == (
        used.estimate,
        used.low,
        used.high,
    )


def test_a_removed_candidate_keeps_its_reason_and_its_numbers(view_of: ViewOf) -> None:
    arm = view_of("bandit", 140.0).arms[3]
    assert arm.state is ArmState.REMOVED
    assert "fidelity" in arm.removed_reason
    assert next(verdict for verdict in arm.verdicts if verdict.metric == "fidelity").outcome == "FAIL"


def test_a_verdict_says_its_unit_its_kind_of_limit_and_its_way_to_a_pass(view_of: ViewOf) -> None:
    latency, fidelity, accuracy, errors, compute = view_of("bandit", 140.0).arms[1].verdicts
    assert (latency.unit, latency.limit_kind, latency.limit_value) == (Unit.MS, Limit.BETTER, None)
    assert (fidelity.unit, fidelity.limit_kind, fidelity.limit_value) == (Unit.SHARE, Limit.MINIMUM, 0.95)
    assert (accuracy.is_difference, accuracy.limit_kind, accuracy.limit_value) == (True, Limit.MARGIN, 0.02)
    assert (errors.limit_kind, errors.limit_value) == (Limit.MAXIMUM, 0.03)
    assert (compute.role, compute.limit_kind, compute.progress) == ("signal", Limit.NONE, 0.0)
    assert fidelity.outcome == "PASS"
    assert fidelity.progress == 1.0
    assert fidelity.evidence_for >= fidelity.evidence_for_needed == pytest.approx(60.0)


def test_a_timeout_is_infinite_inside_and_null_in_json(recorded: Recorded) -> None:
    stored, _ = recorded("bandit")
    timeouts = Totals(requests=1, metrics={LATENCY: {LATENCY_SCALE.bins - 1: 1}})
    state = replace(stored.state, totals={**stored.state.totals, "onnx-fp32": timeouts})
    view = experiment_view(replace(stored, state=state), parse(stored.document), [], 140.0)
    assert view.arms[0].p50_ms == math.inf
    assert json.loads(json_line(view))["arms"][0]["p50_ms"] is None


def test_rates_are_taken_over_the_time_between_two_looks(view_of: ViewOf) -> None:
    early = view_of("bandit", 140.0)
    arms = tuple(replace(arm, requests=arm.requests + 50) for arm in early.arms)
    late = replace(early, at_s=145.0, arms=arms)
    assert [arm.requests_per_s for arm in with_rates(late, early).arms] == [10.0] * 4


def test_rates_of_another_run_or_of_no_time_are_left_alone(view_of: ViewOf) -> None:
    view = view_of("bandit", 140.0)
    assert with_rates(view, view) == view
    assert with_rates(replace(view, at_s=150.0), replace(view, spec_version=2)) == replace(view, at_s=150.0)
    begun_again = tuple(replace(arm, requests=arm.requests + 9) for arm in view.arms)
    assert with_rates(replace(view, at_s=150.0), replace(view, arms=begun_again)).arms == view.arms


def test_a_view_carries_the_end_of_a_long_log_and_its_length(recorded: Recorded) -> None:
    stored, decisions = recorded("bandit")
    long = [
        replace(decisions[0], decision=replace(decisions[0].decision, number=number, at_s=float(number)))
        for number in range(1, 121)
    ]
    view = experiment_view(stored, parse(stored.document), long, 140.0)
    assert view.decisions_total == 120
    assert [decision.number for decision in view.decisions] == list(range(121 - DECISIONS_SHOWN, 121))


def test_times_in_the_log_count_from_the_first_decision_of_the_spec_version(recorded: Recorded) -> None:
    _, decisions = recorded("mirroring")
    again = [
        replace(kept, spec_version=2, decision=replace(kept.decision, at_s=kept.decision.at_s + 500.0))
        for kept in decisions
    ]
    shown = decision_views([*decisions, *again])
    assert [d.since_start_s for d in shown[: len(decisions)]] == [
        d.since_start_s for d in shown[len(decisions) :]
    ]
    assert shown[-1].at == "1970-01-01T00:08:29Z"


def test_an_undecided_experiment_shows_where_it_stopped(recorded: Recorded) -> None:
    stored, decisions = recorded("bandit")
    view = experiment_view(
        replace(stored, state=replace(stored.state, phase=Phase.INCONCLUSIVE)),
        parse(stored.document),
        decisions,
        140.0,
    )
    assert [step.state for step in view.steps] == ["done", "done", "done", "stopped", "waiting"]
    assert (view.elapsed_s, view.steps[3].elapsed_s) == (121.0, 60.0)
    assert view.waiting_for == ("a person: `anabranch promote minilm-int8 --variant …`, `retry` or `abort`",)
