import numpy as np
import pytest

from anabranch.bandit import simulate
from anabranch.bandit.decision import Decision
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.simulate import Arm, World
from anabranch.bandit.spec import AnalysisStep, Experiment, Metric, Role, SetWeightStep
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.step import Tick, tick
from anabranch.bandit.tracing import trace

ACCURACY = Metric(
    name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, non_inferiority_margin=0.05
)
EXPERIMENT = Experiment(
    name="exp",
    model="m",
    baseline="base",
    candidates=("a", "bad"),
    metrics=(ACCURACY,),
    steps=(SetWeightStep(weight=0.3), AnalysisStep(min_duration_s=0.0, max_duration_s=None)),
)
WORLD = World(
    arms=lambda _: {
        "base": Arm(median_ms=5.0),
        "a": Arm(median_ms=5.0),
        "bad": Arm(median_ms=5.0, accuracy=0.5),
    }
)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Decision], list[Evidence], ExperimentState]:
    seen: list[Evidence] = []

    def remembering(*given: object) -> Tick:
        seen.append(given[2])  # type: ignore[arg-type]  # the evidence
        return tick(*given)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(simulate, "tick", remembering)
    decisions = []
    for result in simulate.run(EXPERIMENT, WORLD, np.random.default_rng(4), max_ticks=40):
        if result.decision is not None:
            decisions.append(result.decision)
    return decisions, [part for part in seen if not part.is_empty], result.state


def test_every_decision_is_a_moment_with_the_verdicts_it_kept(
    ran: tuple[list[Decision], list[Evidence], ExperimentState],
) -> None:
    decisions, log, _ = ran
    moments = trace(EXPERIMENT, 0, decisions, log, until_s=40.0)
    for decision in decisions:
        found = [moment for moment in moments if moment.at_s == decision.at_s][-1]
        for verdict in decision.verdicts:
            mine = found.state.verdicts[f"{verdict.metric}/{verdict.variant}"]
            assert (mine.outcome, mine.samples) == (verdict.outcome, verdict.samples)
            assert mine.log_e_pass == pytest.approx(verdict.log_e_pass, abs=1e-9)


def test_the_end_is_what_was_saved_and_removed_candidates_are_gone(
    ran: tuple[list[Decision], list[Evidence], ExperimentState],
) -> None:
    decisions, log, state = ran
    last = trace(EXPERIMENT, 0, decisions, log, until_s=40.0, most=1_000)[-1].state
    assert last.totals == state.totals
    assert last.live == state.live == ("a",)


def test_time_goes_on_and_the_number_of_moments_is_bounded(
    ran: tuple[list[Decision], list[Evidence], ExperimentState],
) -> None:
    decisions, log, _ = ran
    times = [moment.at_s for moment in trace(EXPERIMENT, 0, decisions, log, until_s=40.0, most=10)]
    assert times == sorted(times)
    assert len(times) <= 10 + 1 + len(decisions)
    assert trace(EXPERIMENT, 0, [], log, until_s=40.0) == []
