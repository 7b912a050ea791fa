from collections.abc import Callable
from dataclasses import replace

import pytest

from anabranch.bandit.decision import Action, Change, Command, Decision, Verb
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import Experiment
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.step import tick
from anabranch.bandit.verdicts import Outcome, Verdict
from anabranch.cli.step_views import detail, step_views, title
from anabranch.cli.view_types import StepState
from anabranch.cli.waiting import waiting_for
from anabranch.store.document import parse, read_document
from anabranch.store.port import StoredDecision, StoredExperiment

STEPS = """
    - mirror: {percent: 20, until: {fidelity: decided}, maxDuration: 10m}
    - setWeight: 5
    - pause: {duration: 30s}
    - analysis: {minDuration: 2m}
    - bandit: {maxWeight: 50, updatePeriod: 10s, maxDuration: 1h}
    - promote: {steps: [75, 100], interval: 1m, bake: 10m}
"""


@pytest.fixture
def experiment() -> Experiment:
    document = read_document(f"""
apiVersion: anabranch/v1
kind: Experiment
metadata: {{name: tiny}}
spec:
  model: digits
  baseline: fp32
  candidates: [int8, fp16]
  metrics:
    - {{name: latency, source: latency_ms, role: objective, statistic: p95}}
    - {{name: fidelity, source: mirror.top1_agreement, role: guardrail, min: 0.9}}
  steps: {STEPS}
""")
    return parse(document)


def decided(number: int, at_s: float, phase: Phase, step: int, left: int) -> Decision:
    """A decision that left so many steps."""
    actions = tuple(Action(change=Change.STEP, reason="over") for _ in range(left))
    return Decision(
        number=number,
        at_s=at_s,
        phase=phase,
        step=step,
        epoch=0,
        weights={},
        actions=actions,
        verdicts=(),
        evidence_last=0,
    )


def test_titles_are_short_and_details_say_when_a_step_is_over(experiment: Experiment) -> None:
    assert [(title(step), detail(step)) for step in experiment.steps] == [
        ("mirror 20%", "until fidelity decided, at most 10m"),
        ("setWeight 5%", "for each live candidate"),
        ("pause 30s", ""),
        ("analysis", "until every guardrail is decided, at least 2m"),
        ("bandit", "thompson, every 10s, up to 50% each, at most 1h"),
        ("promote", "75% → 100% every 1m, bake 10m"),
    ]


def test_steps_are_timed_from_the_decision_that_entered_them(experiment: Experiment) -> None:
    run = [
        decided(1, 100.0, Phase.PROGRESSING, 0, 0),
        decided(2, 160.0, Phase.PROGRESSING, 2, 2),
        decided(3, 190.0, Phase.PROGRESSING, 3, 1),
    ]
    state = ExperimentState(phase=Phase.PROGRESSING, step=3, step_started_s=190.0, started_s=100.0)
    views = step_views(experiment, state, run, 200.0)
    assert [view.state for view in views] == ["done", "done", "done", "current", "waiting", "waiting"]
    assert [view.elapsed_s for view in views] == [60.0, 0.0, 30.0, 10.0, None, None]


@pytest.mark.parametrize("beside", [(), (Change.STEP,)])
def test_steps_that_a_person_promoted_past_are_skipped(
    beside: tuple[Change, ...], experiment: Experiment
) -> None:
    begun = tick(experiment, ExperimentState(), Evidence(experiment="tiny"), (), 0.0)
    assert begun.decision is not None
    asked = Command(id=1, verb=Verb.PROMOTE, actor="ada", argument="int8")
    promoted = tick(experiment, begun.state, Evidence(experiment="tiny"), (asked,), 9.0)
    assert promoted.decision is not None
    noisy = (
        *promoted.decision.actions,
        *(Action(change=change, reason="mirroring ends") for change in beside),
    )
    run = [begun.decision, replace(promoted.decision, actions=noisy)]
    views = step_views(experiment, promoted.state, run, 12.0)
    skipped = StepState.SKIPPED
    assert [view.state for view in views] == ["done", skipped, skipped, skipped, skipped, "current"]
    assert views[0].elapsed_s == 9.0


def test_a_promotion_in_its_turn_skips_nothing(
    recorded: Callable[[str], tuple[StoredExperiment, list[StoredDecision]]],
) -> None:
    stored, decisions = recorded("promoted")
    run = [kept.decision for kept in decisions]
    views = step_views(parse(stored.document), stored.state, run, 201.0)
    assert [view.state for view in views] == ["done"] * 5
    assert [view.elapsed_s for view in views] == [21.0, 0.0, 40.0, 90.0, 50.0]


@pytest.mark.parametrize(
    ("part", "progress", "waits"),
    [
        (0, "int8 at 75%", "48s at 75%, then 100%"),
        (1, "int8 at 100%, baking", "9m48s of bake, while the guardrails are watched"),
    ],
)
def test_a_promotion_says_its_weight_and_what_comes_next(
    part: int, progress: str, waits: str, experiment: Experiment
) -> None:
    state = ExperimentState(phase=Phase.PROMOTING, step=5, part=part, step_started_s=100.0, winner="int8")
    assert step_views(experiment, state, [], 112.0)[5].progress == progress
    assert waiting_for(experiment, state, 112.0) == (waits,)


@pytest.mark.parametrize("phase", [Phase.ABORTED, Phase.ROLLED_BACK, Phase.INCONCLUSIVE])
def test_an_experiment_that_ended_early_shows_where(phase: Phase, experiment: Experiment) -> None:
    views = step_views(experiment, ExperimentState(phase=phase, step=3), [], 9.0)
    assert [view.state for view in views] == ["done", "done", "done", "stopped", "waiting", "waiting"]


def test_before_the_start_every_step_waits(experiment: Experiment) -> None:
    assert {view.state for view in step_views(experiment, ExperimentState(), [], 9.0)} == {StepState.WAITING}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (ExperimentState(), "the controller's next tick: it runs inside `anabranch serve`"),
        (
            ExperimentState(phase=Phase.PAUSED, step=2),
            "a person: `anabranch resume tiny`, `promote` or `abort`",
        ),
        (
            ExperimentState(phase=Phase.PAUSED, step=2, live=("int8", "fp16")),
            "a person: `anabranch resume tiny`, `promote --variant …` or `abort`",
        ),
        (ExperimentState(phase=Phase.PROGRESSING, step=2), "20s to pass"),
        (ExperimentState(phase=Phase.PROGRESSING, step=1), "the next tick"),
    ],
)
def test_what_an_experiment_waits_for_names_the_verb_or_the_time(
    state: ExperimentState, sentence: str, experiment: Experiment
) -> None:
    assert waiting_for(experiment, state, 10.0) == (sentence,)


def test_an_analysis_waits_for_every_open_guardrail_of_live_candidates(experiment: Experiment) -> None:
    state = ExperimentState(phase=Phase.PROGRESSING, step=3, live=("fp16",))
    assert waiting_for(experiment, state, 30.0) == ("fidelity of fp16: no data yet", "1m30s more, at least")


@pytest.mark.parametrize(
    ("log_e", "said"),
    [
        (0.0, "fidelity of fp16: 0% of the evidence, n = 838"),
        (-3.0, "fidelity of fp16: 0% of the evidence, n = 838"),
        (1.2, "fidelity of fp16: 30% of the evidence, n = 838"),
    ],
)
def test_an_open_claim_says_how_much_of_its_evidence_is_there(
    log_e: float, said: str, experiment: Experiment
) -> None:
    verdict = Verdict(
        metric="fidelity",
        variant="fp16",
        outcome=Outcome.INCONCLUSIVE,
        log_e_pass=log_e,
        log_need_pass=4.0,
        samples=838,
    )
    state = ExperimentState(
        phase=Phase.PROGRESSING, step=3, live=("fp16",), verdicts={"fidelity/fp16": verdict}
    )
    assert waiting_for(experiment, state, 500.0) == (said,)


def test_a_bandit_waits_for_the_objective_too(experiment: Experiment) -> None:
    state = ExperimentState(phase=Phase.PROGRESSING, step=4, live=("fp16",))
    assert waiting_for(experiment, state, 600.0) == (
        "fidelity of fp16: no data yet",
        "latency of fp16: no data yet",
        "at most 50m more",
    )


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.is_over])
def test_an_experiment_that_is_over_waits_for_nothing(phase: Phase, experiment: Experiment) -> None:
    assert waiting_for(experiment, replace(ExperimentState(), phase=phase), 10.0) == ()
