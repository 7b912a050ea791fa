"""Who is served by what: exact, sticky, the same on every worker and after every restart."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from anabranch.bandit.assignment import assign, lay_out, unit_point

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]
Served = Any

UNITS = [f"user-{number}" for number in range(60)]
# Thirty per cent each for two candidates, until a person says otherwise.
HELD = [{"setWeight": 30}, {"pause": {}}]


def ask_everyone(served: Served, clients: int = 1) -> dict[str, set[str]]:
    """Every unit asks once over each of a number of connections; answers the variants it met."""
    met: dict[str, set[str]] = {unit: set() for unit in UNITS}
    for _ in range(clients):
        client = served.client()
        for number, unit in enumerate(UNITS):
            reply = client.infer(number, metadata={"x-user-id": unit})
            assert reply.is_ok, reply.detail
            met[unit].add(reply.variant)
        client.close()
    return met


def routed(served: Served) -> bool:
    """Whether the split reaches a client: the first epoch with weights is in force on every worker."""
    clients = [served.client() for _ in range(8)]
    replies = [client.infer(0, metadata={"x-user-id": "probe"}) for client in clients]
    for client in clients:
        client.close()
    return all(r.assignment_id and served.open_id(r.assignment_id).epoch == 1 for r in replies)


@pytest.fixture
def held(experiment: Make) -> dict[str, Any]:
    # An answer's class is of use to feedback: without such a metric, nobody looks for it.
    correct = {"name": "correct", "source": "feedback.correct", "role": "signal"}
    return experiment("held", ["plain", "corrupt"], HELD, [correct], unit={"metadata": "x-user-id"})


def test_units_are_split_exactly_and_stay_on_both_workers_and_after_a_restart(
    serve: Serve, held: dict[str, Any], wait_until: Wait
) -> None:
    served = serve(workers=2)
    served.apply(held)
    wait_until(lambda: routed(served), "the split is in force")

    met = ask_everyone(served, clients=6)
    kept = served.experiment("held")
    arms, layout = ["wide", "plain", "corrupt"], lay_out([0.3, 0.3])
    salt = kept.salt.hex().encode()
    expected = {unit: {arms[assign(layout, unit_point(salt, unit.encode()))[0]]} for unit in UNITS}
    assert met == expected
    assert len(Counter(next(iter(variants)) for variants in met.values())) == 3

    lanes = {record_lane.lane for record_lane, _ in served.records()}
    assert len(lanes) == 2, "both workers served"
    assert served.stop() == 0

    again = serve(workers=1)
    wait_until(lambda: routed(again), "the split is in force again")
    assert ask_everyone(again) == expected


def test_only_the_first_request_of_a_unit_decides(
    serve: Serve, held: dict[str, Any], wait_until: Wait
) -> None:
    served = serve()
    served.apply(held)
    wait_until(lambda: routed(served), "the split is in force")
    ask_everyone(served, clients=3)
    asked = 3 * len(UNITS)
    # The probes are one unit more, whose first request is evidence too.
    wait_until(lambda: served.requests_in_evidence("held") > asked, "the requests are counted")
    totals = served.experiment("held").state.totals.values()
    assert sum(total.units for total in totals) == len(UNITS) + 1


def test_a_request_without_its_unit_is_served_by_the_baseline_outside_the_split(
    serve: Serve, held: dict[str, Any], wait_until: Wait
) -> None:
    served = serve()
    served.apply(held)
    wait_until(lambda: routed(served), "the split is in force")
    client = served.client()
    replies = [client.infer(number) for number in range(30)]
    assert {reply.variant for reply in replies} == {"wide"}
    pinned = client.infer(0, metadata={"x-user-id": "user-1", "x-target-variant": "plain"})
    assert pinned.variant == "plain"
    assert pinned.assignment_id == ""
    assert pinned.is_ok


def test_the_reply_names_the_experiment_and_an_id_that_says_who_served(
    serve: Serve, held: dict[str, Any], wait_until: Wait
) -> None:
    served = serve()
    served.apply(held)
    wait_until(lambda: routed(served), "the split is in force")
    client = served.client()
    arms = ["wide", "plain", "corrupt"]
    for number, unit in enumerate(UNITS[:20]):
        reply = client.infer(number, metadata={"x-user-id": unit})
        said = served.open_id(reply.assignment_id)
        assert reply.experiment == "held"
        assert arms[said.arm] == reply.variant
        assert said.propensity == pytest.approx([0.4, 0.3, 0.3][said.arm])
        assert said.top1 == int(reply.logits.argmax())
        assert said.experiment == served.experiment("held").id
