from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.bandit.evidence import Cell, Evidence, PairCell, merge_cells, merge_pairs
from anabranch.bandit.fold import fold
from anabranch.bandit.judge import judge
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.measures import KL_SCALE
from anabranch.bandit.spec import Direction, Experiment, Metric, Role, SetWeightStep, Statistic
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.verdicts import Outcome, Verdict

WEIGHTS = {1: {"base": 0.5, "a": 0.3, "b": 0.2}, 2: {"base": 0.6, "a": 0.2, "b": 0.2}}
ACCURACY = Metric(name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, non_inferiority_margin=0.1)
LATENCY = Metric(
    name="latency",
    source="latency_ms",
    role=Role.OBJECTIVE,
    statistic=Statistic.P50,
    direction=Direction.MIN,
)
ERRORS = Metric(name="errors", source="error", role=Role.GUARDRAIL, direction=Direction.MIN, maximum=0.2)
FIDELITY = Metric(name="fidelity", source="mirror.top1_agreement", role=Role.GUARDRAIL, minimum=0.8)


def experiment(*metrics: Metric) -> Experiment:
    return Experiment(
        name="exp",
        model="m",
        baseline="base",
        candidates=("a", "b"),
        metrics=metrics or (LATENCY, ACCURACY, ERRORS, FIDELITY),
        steps=(SetWeightStep(weight=0.2),),
    )


def started() -> ExperimentState:
    return ExperimentState(phase=Phase.PROGRESSING, live=("a", "b"), weights=WEIGHTS[1], epoch=1)


counts = st.integers(0, 40)
cells = st.builds(
    lambda epoch, variant, good, bad, fast, slow: Cell(
        epoch=epoch,
        variant=variant,
        units=good + bad,
        requests=good + bad,
        metrics={
            "feedback.correct": {0: bad, 1: good},
            "error": {0: good, 1: bad},
            "latency_ms": {800: fast, 900: slow},
        },
    ),
    st.sampled_from([1, 2]),
    st.sampled_from(["base", "a", "b"]),
    counts,
    counts,
    counts,
    counts,
)
pairs = st.builds(
    lambda epoch, variant, lost, tied, won: PairCell(
        epoch=epoch,
        variant=variant,
        pairs=lost + tied + won,
        metrics={
            "feedback.correct": {0: lost, 1: tied, 2: won},
            "mirror.top1_agreement": {0: lost + won, 1: tied},
        },
    ),
    st.sampled_from([1, 2]),
    st.sampled_from(["a", "b"]),
    counts,
    counts,
    counts,
)


def evidence(parts: list[Cell], compared: list[PairCell], last: int = 1) -> Evidence:
    return Evidence(
        experiment="exp", first=last, last=last, cells=tuple(parts), pairs=tuple(compared), weights=WEIGHTS
    )


def log_e(state: ExperimentState) -> dict[str, tuple[float, float]]:
    return {key: (verdict.log_e_pass, verdict.log_e_fail) for key, verdict in state.verdicts.items()}


def close(one: ExperimentState, two: ExperimentState) -> bool:
    first, second = log_e(one), log_e(two)
    return first.keys() == second.keys() and all(
        first[key] == pytest.approx(second[key], rel=1e-9, abs=1e-9) for key in first
    )


def after(*folded: Evidence, of: Experiment | None = None) -> ExperimentState:
    asked, state = of or experiment(), started()
    for part in folded:
        state = fold(asked, state, part)
    return judge(asked, state, 5.0)


@settings(max_examples=12, deadline=None)
@given(data=st.data(), parts=st.lists(cells, max_size=6), compared=st.lists(pairs, max_size=4))
def test_within_one_fold_neither_order_nor_splitting_matters(
    data: st.DataObject, parts: list[Cell], compared: list[PairCell]
) -> None:
    whole = after(evidence(list(merge_cells(parts)), list(merge_pairs(compared))))
    shuffled = after(evidence(data.draw(st.permutations(parts)), data.draw(st.permutations(compared))))
    assert close(whole, shuffled)


@settings(max_examples=12, deadline=None)
@given(parts=st.lists(cells, max_size=6), compared=st.lists(pairs, max_size=4), cut=st.integers(0, 6))
def test_totals_add_up_however_the_evidence_is_cut_into_folds(
    parts: list[Cell], compared: list[PairCell], cut: int
) -> None:
    whole = after(evidence(parts, compared))
    parted = after(evidence(parts[:cut], compared[:cut], 1), evidence(parts[cut:], compared[cut:], 2))
    for arm in ("base", "a", "b"):
        one, two = whole.totals.get(arm), parted.totals.get(arm)
        assert one == two or (one is not None and two is not None and one.metrics == two.metrics)


@settings(max_examples=10, deadline=None)
@given(parts=st.lists(cells, max_size=5), compared=st.lists(pairs, max_size=3))
def test_lower_is_better_is_higher_is_better_with_the_values_turned_round(
    parts: list[Cell], compared: list[PairCell]
) -> None:
    lower = replace(ACCURACY, direction=Direction.MIN)
    turned = [replace(cell, metrics=_turned(cell.metrics, 1)) for cell in parts]
    swapped = [replace(pair, metrics=_turned(pair.metrics, 2)) for pair in compared]
    higher = after(evidence(parts, compared), of=experiment(ACCURACY))
    assert close(higher, after(evidence(turned, swapped), of=experiment(lower)))
    limit = replace(ACCURACY, non_inferiority_margin=None, minimum=0.7)
    limited = replace(ACCURACY, non_inferiority_margin=None, maximum=1.0 - 0.7, direction=Direction.MIN)
    assert close(
        after(evidence(parts, []), of=experiment(limit)), after(evidence(turned, []), of=experiment(limited))
    )


def _turned(metrics: Mapping[str, Mapping[int, int]], last: int) -> dict[str, dict[int, int]]:
    values = metrics["feedback.correct"]
    return {"feedback.correct": {last - index: count for index, count in values.items()}}


@settings(max_examples=10, deadline=None)
@given(parts=st.lists(cells, max_size=5), compared=st.lists(pairs, max_size=3))
def test_exchanging_the_names_of_two_candidates_exchanges_their_verdicts(
    parts: list[Cell], compared: list[PairCell]
) -> None:
    other = {"a": "b", "b": "a", "base": "base"}
    weights = {n: {other[arm]: share for arm, share in row.items()} for n, row in WEIGHTS.items()}
    exchanged = replace(
        evidence(
            [replace(cell, variant=other[cell.variant]) for cell in parts],
            [replace(pair, variant=other[pair.variant]) for pair in compared],
        ),
        weights=weights,
    )
    one, two = log_e(after(evidence(parts, compared))), log_e(after(exchanged))
    for key, numbers in one.items():
        metric, variant = key.split("/")
        assert two[f"{metric}/{other[variant]}"] == pytest.approx(numbers, rel=1e-9, abs=1e-9)


def test_without_data_everything_is_inconclusive() -> None:
    state = after()
    assert {verdict.outcome for verdict in state.verdicts.values()} == {Outcome.INCONCLUSIVE}
    assert len(state.verdicts) == 8
    assert all(verdict.decided_s is None for verdict in state.verdicts.values())


def test_evidence_of_an_epoch_whose_weights_are_unknown_tells_nothing_about_the_split() -> None:
    unknown = evidence([Cell(epoch=9, variant="a", metrics={"feedback.correct": {0: 500}})], [])
    assert after(unknown).verdicts["accuracy/a"].log_e_fail == pytest.approx(0.0, abs=1e-9)


def errors_of(good: int, bad: int, last: int) -> Evidence:
    return evidence([Cell(epoch=1, variant="a", metrics={"error": {0: good, 1: bad}})], [], last)


def verdict_course(*parts: tuple[int, int]) -> list[Verdict]:
    asked, state, course = experiment(ERRORS), started(), []
    for number, (good, bad) in enumerate(parts, 1):
        state = judge(asked, fold(asked, state, errors_of(good, bad, number)), float(number))
        course.append(state.verdicts["errors/a"])
    return course


def test_a_pass_stays_when_the_evidence_for_it_fades() -> None:
    course = verdict_course((300, 0), (300, 140))
    assert [verdict.outcome for verdict in course] == [Outcome.PASS, Outcome.PASS]
    assert course[1].log_e_pass < course[1].log_need_pass
    assert [verdict.decided_s for verdict in course] == [1.0, 1.0]
    assert course[1].reason == course[0].reason


def test_a_pass_turns_into_a_fail_when_harm_is_proven() -> None:
    course = verdict_course((300, 0), (100, 1500))
    assert [verdict.outcome for verdict in course] == [Outcome.PASS, Outcome.FAIL]
    assert course[1].decided_s == 2.0


def test_a_fail_stays_whatever_comes() -> None:
    course = verdict_course((10, 200), (200_000, 0))
    assert [verdict.outcome for verdict in course] == [Outcome.FAIL, Outcome.FAIL]
    assert course[1].log_e_pass > course[1].log_need_pass
    assert course[1].decided_s == 1.0


def test_a_signal_is_shown_and_never_decides() -> None:
    signal = Metric(name="errors", source="error", role=Role.SIGNAL, direction=Direction.MIN)
    asked = experiment(signal)
    state = judge(asked, fold(asked, started(), errors_of(0, 5000, 1)), 1.0)
    assert state.verdicts["errors/a"].outcome is Outcome.INCONCLUSIVE
    assert state.verdicts["errors/a"].estimate == 1.0


def test_a_measurement_that_broke_is_an_error_and_condemns_nobody() -> None:
    state = after(errors_of(5, 5, 1), of=experiment(ERRORS))
    broken = replace(state, totals={"a": replace(state.totals["a"], metrics={"error": {7: 3}})}, verdicts={})
    verdict = judge(experiment(ERRORS), broken, 2.0).verdicts["errors/a"]
    assert verdict.outcome is Outcome.ERROR
    assert "errors cannot be judged" in verdict.reason


def test_a_latency_objective_says_nothing_before_the_baseline_was_seen_often_enough() -> None:
    few = evidence(
        [
            Cell(epoch=1, variant=arm, metrics={"latency_ms": {800 if arm == "a" else 900: 49}})
            for arm in ("base", "a")
        ],
        [],
    )
    asked = experiment(LATENCY)
    state = started()
    for _ in range(2):
        state = fold(asked, state, few)
        if state.totals["base"].metrics["latency_ms"][900] < 50:
            assert state.tests["latency/a"].split_for is None
    assert judge(asked, state, 1.0).verdicts["latency/a"].outcome is Outcome.INCONCLUSIVE


DIVERGENCE = Metric(name="divergence", source="mirror.kl", role=Role.GUARDRAIL, maximum=0.05)


def diverging(*values: tuple[float, int]) -> Evidence:
    histogram = {KL_SCALE.bin_of(nats): count for nats, count in values}
    pairs = sum(count for _, count in values)
    return evidence([], [PairCell(epoch=1, variant="a", pairs=pairs, metrics={"mirror.kl": histogram})])


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        (((0.0, 200), (0.02, 200)), Outcome.PASS),
        (((0.04, 100), (0.05, 100)), Outcome.INCONCLUSIVE),
        # Few that diverge by as much as counts are a mean above the limit.
        (((0.0, 300), (1.0, 100)), Outcome.FAIL),
    ],
)
def test_a_divergence_is_judged_by_its_mean_in_nats(
    values: tuple[tuple[float, int], ...], outcome: Outcome
) -> None:
    verdict = after(diverging(*values), of=experiment(DIVERGENCE)).verdicts["divergence/a"]
    total = sum(count for _, count in values)
    assert verdict.outcome is outcome
    assert verdict.estimate is not None
    assert verdict.estimate == pytest.approx(sum(nats * count for nats, count in values) / total, abs=5e-4)
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low <= verdict.estimate <= verdict.high
    assert verdict.samples == total


def test_evidence_of_a_small_divergence_says_nothing_of_other_arms() -> None:
    state = after(diverging((0.0, 400)), of=experiment(DIVERGENCE))
    assert state.verdicts["divergence/b"].outcome is Outcome.INCONCLUSIVE
