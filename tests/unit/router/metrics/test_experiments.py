"""What Prometheus hears of experiments: as much as matters now, and what the state says."""

from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.srm import SrmState, SrmTest, UnitCell
from anabranch.bandit.state import ExperimentState, Removal, Totals
from anabranch.bandit.verdicts import Outcome, Verdict
from anabranch.router.metrics.experiments import experiment_samples
from anabranch.store.port import StoredExperiment

ARMS = ("base", "a", "b")


def stored(name: str = "exp", applied_s: float = 1.0, model: str = "m", **state: Any) -> StoredExperiment:
    document = {
        "apiVersion": "anabranch/v1",
        "kind": "Experiment",
        "metadata": {"name": name},
        "spec": {
            "model": model,
            "baseline": "base",
            "candidates": ["a", "b"],
            "metrics": [{"name": "errors", "source": "error", "role": "guardrail", "max": 0.1}],
            "steps": [{"setWeight": 10}, {"pause": {}}],
        },
    }
    return StoredExperiment(
        id=1,
        name=name,
        document=document,
        spec_version=1,
        salt=b"salt",
        applied_s=applied_s,
        first_delta=0,
        first_epoch=0,
        state_version=1,
        state=ExperimentState(**{"phase": Phase.PROGRESSING, "live": ("a", "b"), **state}),
    )


def values(*kept: StoredExperiment) -> dict[tuple[str, ...], Any]:
    return {
        (sample.metric.name.removeprefix("anabranch_experiment_"), *sample.labels): sample.value
        for sample in experiment_samples(kept)
    }


def test_weights_steps_and_counts_are_those_of_the_state() -> None:
    found = values(
        stored(
            step=1,
            epoch=4,
            decisions=9,
            weights={"base": 0.9, "a": 0.1},
            totals={"a": Totals(requests=7, units=5)},
        )
    )
    assert found["weight_ratio", "exp", "m", "base"] == 0.9
    assert found["weight_ratio", "exp", "m", "b"] == 0.0
    assert (found["step", "exp", "m"], found["steps", "exp", "m"]) == (2, 2)
    assert (found["epoch", "exp", "m"], found["decisions_total", "exp", "m"]) == (4, 9)
    assert (found["requests_total", "exp", "m", "a"], found["units_total", "exp", "m", "a"]) == (7, 5)


def test_exactly_one_phase_and_one_outcome_are_shown() -> None:
    verdict = Verdict(metric="errors", variant="a", outcome=Outcome.FAIL, log_e_fail=5.0, log_need_fail=4.0)
    found = values(stored(verdicts={"errors/a": verdict}))
    assert [key for key, value in found.items() if key[0] == "phase" and value] == [
        ("phase", "exp", "m", "Progressing")
    ]
    assert [key for key, value in found.items() if key[0] == "verdict" and value] == [
        ("verdict", "exp", "m", "a", "errors", "FAIL")
    ]
    assert found["log_evidence", "exp", "m", "a", "errors", "fails"] == 5.0
    assert found["log_evidence_needed", "exp", "m", "a", "errors", "fails"] == 4.0
    assert ("log_evidence", "exp", "m", "a", "errors", "holds") not in found, "it is not tested"
    assert ("estimate", "exp", "m", "a", "errors") not in found, "there is none yet"


def test_a_removed_candidate_and_a_winner_are_marked() -> None:
    found = values(stored(removed=(Removal(variant="b", at_s=2.0, reason="it failed"),), winner="a"))
    assert (found["live", "exp", "m", "a"], found["live", "exp", "m", "b"]) == (1.0, 0.0)
    assert (found["winner", "exp", "m", "a"], found["winner", "exp", "m", "b"]) == (1.0, 0.0)


def test_the_sample_ratio_is_told_with_what_would_block() -> None:
    test = SrmTest(arms=ARMS)
    state: SrmState = test.advance(
        test.start(), [UnitCell(weights={"base": 0.8, "a": 0.1, "b": 0.1}, units={"base": 800, "a": 10})]
    )
    found = values(stored(sample_ratio=state))
    assert found["sample_ratio_log_evidence", "exp", "m"] == pytest.approx(test.log_e(state))
    assert (
        found["sample_ratio_log_evidence", "exp", "m"] > found["sample_ratio_log_evidence_needed", "exp", "m"]
    )


def test_of_what_is_over_only_the_last_of_each_model_is_told() -> None:
    over = {"phase": Phase.PROMOTED}
    kept = [stored(f"old-{n}", applied_s=n, **over) for n in range(5)]
    kept += [stored("running", applied_s=9.0), stored("other", applied_s=3.0, model="n", **over)]
    names = {key[1] for key in values(*kept)}
    assert names == {"old-4", "running", "other"}


def test_the_series_do_not_grow_with_the_traffic() -> None:
    quiet = stored()
    busy = replace(quiet, state=replace(quiet.state, totals={arm: Totals(requests=10**9) for arm in ARMS}))
    assert values(quiet).keys() == values(busy).keys()
