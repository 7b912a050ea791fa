import json
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.scenarios import SCENARIOS, why_not, without_people, world_of
from anabranch.cli.trying import exact_share, scenario_views, try_all
from anabranch.store.document import parse, read_document

Shell = Any


def test_a_plan_says_when_and_after_how_many_requests(shell: Shell, document_file: Path) -> None:
    ran = shell("plan", str(document_file), "--rate", "60")
    assert ran.code == 0
    assert ran.out.splitlines()[0].split()[:4] == ["CLAIM", "HALF", "9", "OF"]
    for text in ("fidelity", "1 mirror 30%", "5 promote", "half of such experiments are over after"):
        assert text in ran.out
    assert "assumed: 60 requests a second" in ran.err


def test_more_traffic_makes_it_shorter_and_json_has_the_numbers(shell: Shell, document_file: Path) -> None:
    slow, fast = (
        json.loads(shell("plan", str(document_file), "--rate", rate, "-o", "json").out)
        for rate in ("20", "200")
    )
    assert fast["claims"][1]["half_s"] < slow["claims"][1]["half_s"]
    assert fast["claims"][1]["half_requests"] == pytest.approx(slow["claims"][1]["half_requests"])
    assert slow["claims"][1]["half_s"] <= slow["claims"][1]["most_s"]
    assert slow["assumed"]["requests_per_s"] == 20.0


def test_what_cannot_be_proven_is_said(shell: Shell, document_file: Path) -> None:
    ran = shell("plan", str(document_file), "--rate", "60", "--agreement", "0.5")
    assert "never proven under these assumptions: fidelity" in ran.out
    assert (
        json.loads(shell("plan", str(document_file), "--rate", "60", "--agreement", "0.5", "-o", "json").out)[
            "claims"
        ][1]["half_s"]
        is None
    )


def test_a_plan_is_drawn_as_a_file_that_stands_alone(
    shell: Shell, document_file: Path, tmp_path: Path
) -> None:
    shell("plan", str(document_file), "--rate", "60", "--svg", str(tmp_path / "plan.svg"))
    text = (tmp_path / "plan.svg").read_text()
    assert text.startswith("<svg")
    assert "fidelity proven" in text


@pytest.mark.parametrize("option", [("--rate", "0"), ("--rate", "5", "--accuracy", "90")])
def test_numbers_that_are_none_are_refused(
    shell: Shell, document_file: Path, option: tuple[str, ...]
) -> None:
    assert shell("plan", str(document_file), *option).code == 2


def test_a_document_with_problems_is_refused_with_each(shell: Shell) -> None:
    ran = shell("plan", "-", "--rate", "5", typed="kind: Experiment")
    assert ran.code == 2
    assert "apiVersion: required, and missing" in ran.err


def test_scenarios_end_as_a_good_rule_would(document: dict[str, Any]) -> None:
    experiment = parse(document)
    found = list(try_all(experiment, ["healthy", "wrong", "slow"], rate=200.0, runs=2, seed=7, jobs=1))
    views = {view.scenario: view for view in scenario_views(found)}
    assert views["healthy"].promoted.times == 2
    assert views["wrong"].rolled_back.times == 2
    assert views["slow"].promoted.times == 0
    again = list(try_all(experiment, ["healthy"], rate=200.0, runs=1, seed=7, jobs=1))
    assert again[0] == found[0]


def test_worlds_keep_the_limits_of_a_healthy_candidate_and_break_those_of_a_bad_one(
    document: dict[str, Any],
) -> None:
    experiment = parse(document)
    arms = {
        scenario.name: world_of(scenario, experiment, 50.0, horizon_s=100.0).arms(0.0)["int8"]
        for scenario in SCENARIOS
    }
    assert arms["healthy"].agreement > 0.9 > arms["wrong"].agreement
    assert arms["slow"].median_ms > arms["tie"].median_ms > arms["healthy"].median_ms
    drift = next(each for each in SCENARIOS if each.drifts)
    world = world_of(drift, experiment, 50.0, horizon_s=100.0)
    assert world.arms(12.5)["fp32"].median_ms == pytest.approx(2**0.5 * world.arms(0.0)["fp32"].median_ms)


def test_people_and_gates_answer_at_once(document: dict[str, Any]) -> None:
    steps = without_people(parse(document)).steps
    assert steps[2].duration_s == 0.0  # type: ignore[union-attr]  # the pause
    assert why_not(parse(document)) == ""


def test_shares_have_exact_intervals() -> None:
    # R: binom.test(3, 20)$conf.int
    found = exact_share(3, 20)
    assert (found.low, found.high) == pytest.approx((0.03207094, 0.3789268), abs=1e-6)
    assert (exact_share(0, 5).low, exact_share(5, 5).high) == (0.0, 1.0)


def test_the_verb_says_the_characteristics(shell: Shell, document_file: Path) -> None:
    ran = shell(
        "simulate", str(document_file), "--rate", "200", "--runs", "1", "--scenario", "healthy", "-o", "json"
    )
    assert ran.code == 0
    (view,) = json.loads(ran.out)
    assert (view["scenario"], view["runs"]) == ("healthy", 1)
    assert "1/1 runs" in ran.err
    assert shell("simulate", str(document_file), "--scenario", "helthy").code == 2


def test_a_document_that_scenarios_cannot_draw_is_refused(document: dict[str, Any]) -> None:
    document["spec"]["metrics"].append(
        {"name": "stars", "source": "feedback.stars", "role": "signal", "range": [1, 5]}
    )
    assert "stars" in why_not(parse(read_document(json.dumps(document))))
