"""An experiment whose units never come says so, instead of only that it waits."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.state import ExperimentState, Totals
from anabranch.cli.waiting import waiting_for
from anabranch.store.document import parse


def state_of(document: dict[str, Any], phase: Phase, units: int) -> tuple[ExperimentState, str]:
    body = parse(document)
    totals = {body.baseline: Totals(requests=261, units=units)}
    state = ExperimentState(phase=phase, live=body.candidates, weights={body.baseline: 1.0}, totals=totals)
    return state, body.baseline


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.INCONCLUSIVE])
def test_requests_without_their_unit_are_told_first(document: dict[str, Any], phase: Phase) -> None:
    sticky = copy.deepcopy(document)
    sticky["spec"]["unit"] = {"metadata": "x-user-id"}
    state, baseline = state_of(sticky, phase, units=0)
    told = waiting_for(parse(sticky), state, 10.0)
    assert told[0] == (
        f"metadata x-user-id: none of 261 requests had it, so {baseline} served them outside the split; "
        "clients must send it"
    )
    assert len(told) > 1


def test_with_one_unit_or_without_traffic_nothing_is_missing(document: dict[str, Any]) -> None:
    sticky = copy.deepcopy(document)
    sticky["spec"]["unit"] = {"metadata": "x-user-id"}
    seen, _ = state_of(sticky, Phase.PROGRESSING, units=1)
    for state in (seen, replace(seen, totals={})):
        assert "x-user-id" not in " ".join(waiting_for(parse(sticky), state, 10.0))


def test_where_every_request_is_a_unit_none_can_be_missing(document: dict[str, Any]) -> None:
    state, _ = state_of(document, Phase.PROGRESSING, units=0)
    assert "none of" not in " ".join(waiting_for(parse(document), state, 10.0))
