from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest

from anabranch.bandit import simulate
from anabranch.bandit.certificate import Certificate, certify, recompute
from anabranch.bandit.decision import Decision
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.simulate import Arm, World
from anabranch.bandit.spec import Experiment
from anabranch.bandit.step import Tick, tick
from anabranch.store.certificates import certificate_from, certificate_text


@pytest.fixture(scope="module")
def course(demo: Experiment, demo_arms: Mapping[str, Arm]) -> tuple[list[Decision], list[Evidence]]:
    """All decisions of a run of the demo, and what its ticks folded in."""
    log: list[Evidence] = []

    def noted(*arguments: object) -> Tick:
        evidence = arguments[2]
        assert isinstance(evidence, Evidence)
        if not evidence.is_empty:
            log.append(evidence)
        return tick(*arguments)  # type: ignore[arg-type]  # handed on as they come

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "tick", noted)
        ticks: Iterator[Tick] = simulate.run(
            demo, World(arms=lambda _: demo_arms, requests_per_s=300.0), np.random.default_rng(0)
        )
        decisions = [result.decision for result in ticks if result.decision is not None]
    return decisions, log


@pytest.fixture(scope="module")
def certificate(demo: Experiment, course: tuple[list[Decision], list[Evidence]]) -> Certificate:
    decisions, log = course
    return certify(demo, decisions, log, number=decisions[-1].number)


def test_a_certificate_recomputes_after_a_journey_as_text(certificate: Certificate) -> None:
    travelled = certificate_from(certificate_text(certificate))
    assert travelled.experiment == certificate.experiment
    assert recompute(travelled) == []
    assert any(verdict.decided_s is not None for verdict in travelled.decision.verdicts)


def test_every_decision_has_a_certificate_of_its_own_counts(
    demo: Experiment, course: tuple[list[Decision], list[Evidence]]
) -> None:
    decisions, log = course
    early = certify(demo, decisions, log, number=decisions[2].number)
    assert recompute(early) == []
    assert early.decision == decisions[2]
    assert len(early.evidence) < len(log)


def test_one_changed_count_is_found(certificate: Certificate) -> None:
    first = certificate.evidence[0]
    pair = first.pairs[0]
    source, histogram = next(iter(pair.metrics.items()))
    index, count = next((i, n) for i, n in histogram.items() if n)
    changed = replace(pair, metrics={**pair.metrics, source: {**histogram, index: count + 1}})
    forged = replace(first, pairs=(changed, *first.pairs[1:]))
    found = recompute(replace(certificate, evidence=(forged, *certificate.evidence[1:])))
    assert any("the evidence gives" in problem for problem in found)


def test_a_verdict_that_was_improved_by_a_millionth_is_found(certificate: Certificate) -> None:
    last = certificate.decision
    better = replace(last.verdicts[0], log_e_pass=last.verdicts[0].log_e_pass + 1e-6)
    forged = replace(last, verdicts=(better, *last.verdicts[1:]))
    found = recompute(replace(certificate, decisions=(*certificate.decisions[:-1], forged)))
    assert len(found) == 1
    assert "log_e_pass" in found[0]


def test_a_missing_tick_or_decision_is_found(certificate: Certificate) -> None:
    assert recompute(replace(certificate, evidence=certificate.evidence[:-1]))
    assert recompute(replace(certificate, decisions=certificate.decisions[1:]))[0].startswith("decisions")


def test_a_decision_that_was_never_taken_has_none(demo: Experiment) -> None:
    with pytest.raises(ValueError, match=r"decision 4 of .* is not kept: there are none"):
        certify(demo, [], [], number=4)
