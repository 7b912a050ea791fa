"""What changes while requests come: routes, the snapshot's age, the journal, the variants' servers, who may call."""

import dataclasses
import secrets
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from anabranch.router.access.authenticator import Rules, by_id
from anabranch.store.access import Role
from anabranch.store.records import Flag
from anabranch.store.tokens import Token, issue
from anabranch.variants.remote_target import OutlierDetection
from anabranch.wire.seam import Status

Router = Any
Start = Callable[..., Any]

CAND, BASE = ("x-user-id", "user-1"), ("x-user-id", "user-3")


def never(_asked: Any) -> None:
    """Says nothing."""


def split(router: Router) -> Router:
    """A router that has learnt to split its requests."""
    router.publish(0.5, unit_metadata="x-user-id")
    assert [router.ask(None, unit).variant for unit in (CAND, BASE)] == ["cand", "base"]
    return router


def test_new_routes_take_effect_with_the_next_request(router: Router) -> None:
    split(router)
    with router.takes(1):
        assert router.ask(None, CAND).variant == "cand"
    router.publish(0.0, unit_metadata="x-user-id")
    results = [router.ask(None, CAND) for _ in range(2)]
    router.publish(1.0, unit_metadata="x-user-id")
    results += [router.ask(None, BASE) for _ in range(2)]
    assert [result.variant for result in results] == 2 * ["base"] + 2 * ["cand"]
    said = [router.opened(result) for result in results]
    assert [each.epoch for each in said] == [2, 2, 3, 3]
    assert [each.propensity for each in said] == 4 * [1.0]
    router.publish(0.5, unit_metadata="x-user-id", salt="c0ffee", experiment="next", experiment_id=4)
    said = [router.opened(router.ask(None, unit)) for unit in (CAND, BASE) for _ in range(2)]
    assert {each.experiment for each in said} == {4}
    # The experiment ends.
    router.publish()
    with router.takes(1):
        results = [router.ask(None, CAND) for _ in range(2)]
    assert [result.initial for result in results] == 2 * [{"x-invoked-variant": "base"}]
    # The candidate becomes the baseline.
    router.publish(arms=("cand",))
    with router.takes(1):
        assert [router.ask(None, CAND).variant for _ in range(2)] == ["cand", "cand"]
    router.publish(0.5, arms=("cand", "base"), unit_metadata="x-user-id")
    assert [router.ask(None, unit).variant for unit in 2 * (CAND, BASE)] == 2 * ["base", "cand"]


def test_a_request_on_its_way_keeps_its_route(router: Router) -> None:
    split(router)
    server = router.servers["cand"]
    server.behave = lambda asked: asked.later(0.05 if len(server.seen) % 2 else 0.2)
    with router.takes(2):
        calls = [router.begin(None, CAND) for _ in range(2)]
        router.eventually(lambda: len(server.seen) == 3)
        router.publish(arms=("base",))
        for call in calls:
            result = router.end(call)
            assert (result.variant, router.opened(result).epoch) == ("cand", 1)
            assert router.record_of(result).arm == 1


def test_a_request_on_its_way_falls_back_to_its_own_baseline(router: Router) -> None:
    split(router)
    server = router.servers["cand"]
    server.behave = lambda asked: asked.later(0.05, lambda asked: asked.fail(Status.INTERNAL))
    with router.takes(1):
        call = router.begin(None, CAND)
        router.eventually(lambda: len(server.seen) == 2)
        router.publish(arms=("cand",))
        result = router.end(call)
    assert (result.variant, router.opened(result).epoch) == ("base", 1)


def test_without_news_for_long_the_baseline_answers(start: Start) -> None:
    router = start(max_age_s=0.3)
    router.publish(1.0)
    assert router.ask().variant == "cand"
    with router.takes(1):
        assert router.ask().variant == "cand"
    time.sleep(0.35)
    with router.takes(0):
        for _ in range(3):
            assert router.ask().initial == {"x-invoked-variant": "base"}
    router.do(router.routes.heard)
    with router.takes(1):
        assert router.ask().variant == "cand"


def test_what_was_asked_while_there_was_no_news_is_in_the_experiment_again(start: Start) -> None:
    router = start(max_age_s=0.3)
    router.publish(1.0)
    time.sleep(0.35)
    for _ in range(3):
        assert router.ask().initial == {"x-invoked-variant": "base"}
    router.do(router.routes.heard)
    for _ in range(3):
        assert router.ask().variant == "cand"


def test_while_nothing_can_be_recorded_the_baseline_answers(router: Router) -> None:
    router.publish(1.0)
    router.ask()
    with router.takes(1):
        assert router.ask().variant == "cand"
    router.journal.is_full = True
    # Nobody knew yet.
    assert router.ask().variant == "cand"
    with router.takes(0):
        results = [router.ask() for _ in range(3)]
    assert [result.initial for result in results] == 3 * [{"x-invoked-variant": "base"}]
    assert router.counts() == {"answered": 6, "unrecordable: baseline": 3}
    router.journal.is_full = False
    # The reply of this one is what the journal is tried with.
    router.ask()
    with router.takes(1):
        assert router.ask().variant == "cand"
    assert len(router.records()) == 4
    assert router.recorder.dropped == 0


def test_a_server_with_too_many_requests_gets_no_more(start: Start) -> None:
    router = split(start(max_requests=4))
    server = router.servers["cand"]
    server.behave = never
    with router.takes(4):
        calls = [router.begin(None, CAND) for _ in range(4)]
        router.eventually(lambda: len(server.seen) == 5)
        result = router.ask(None, CAND)
    assert result.variant == "base"
    assert router.record_of(result).status == Status.RESOURCE_EXHAUSTED
    for call in calls:
        call.cancel()
    router.eventually(lambda: not any(router.left().values()))
    server.behave = type(server).behave
    with router.takes(1):
        assert router.ask(None, CAND).variant == "cand"


def test_a_server_that_fails_often_is_left_alone(start: Start) -> None:
    outliers = OutlierDetection(consecutive_errors=3, base_ejection_time_s=0.5)
    router = split(start(outliers=outliers, health_interval_s=0.1))
    server = router.servers["cand"]
    server.behave = lambda asked: asked.fail(Status.INTERNAL)
    statuses = [router.record_of(router.ask(None, CAND)).status for _ in range(5)]
    assert statuses == 3 * [Status.INTERNAL] + 2 * [Status.UNAVAILABLE]
    assert len(server.seen) == 4
    assert router.variants["cand"].ejections == 1
    assert router.taken == (2 if router.has_express else 0)
    server.behave = type(server).behave
    time.sleep(0.55)
    assert router.ask(None, CAND).variant == "cand"
    router.eventually(lambda: not router.has_express or router.variants["cand"].upstream.is_calm)
    with router.takes(1):
        assert router.ask(None, CAND).variant == "cand"


def test_a_server_that_failed_once_is_asked_on(router: Router) -> None:
    split(router)
    server = router.servers["cand"]
    server.behave = lambda asked: asked.fail(Status.INTERNAL)
    router.ask(None, CAND)
    server.behave = type(server).behave
    with router.takes(0):
        assert router.ask(None, CAND).variant == "cand"
    with router.takes(1):
        assert router.ask(None, CAND).variant == "cand"


def test_a_server_that_is_not_ready_gets_no_requests(start: Start) -> None:
    router = split(start(health_interval_s=0.05))
    variant, server = router.variants["cand"], router.servers["cand"]
    server.is_ready = False
    router.eventually(lambda: variant.unfit() is not None)
    with router.takes(0):
        assert router.ask(None, CAND).variant == "base"
    server.is_ready = True
    router.eventually(lambda: variant.unfit() is None)
    with router.takes(1):
        assert router.ask(None, CAND).variant == "cand"


def test_a_server_that_cannot_be_looked_at_gets_no_requests(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = split(start(health_interval_s=0.05))
    variant = router.variants["cand"]

    async def fail() -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(variant, "look", fail)
    router.eventually(lambda: variant.unfit() is not None)
    with router.takes(0):
        assert router.ask(None, CAND).variant == "base"


@pytest.mark.parametrize("after_s", [0.02, 0.2])
def test_a_drain_answers_what_is_in_flight(start: Start, after_s: float) -> None:
    router = split(start())
    for server in router.servers.values():
        server.behave = lambda asked: asked.later(after_s)
    with router.takes(40):
        calls = [router.begin(None, (CAND, BASE)[n % 2]) for n in range(40)]
        router.eventually(lambda: sum(len(each.seen) for each in router.servers.values()) == 42)
        router.run(router.wire.drain(5.0))
        results = [router.end(call) for call in calls]
    assert {result.status for result in results} == {grpc.StatusCode.OK}
    assert len(router.records()) == 42


def test_a_drain_that_takes_too_long_ends_what_is_in_flight(start: Start) -> None:
    router = split(start())
    router.servers["base"].behave = never
    with router.takes(3):
        calls = [router.begin(None, BASE) for _ in range(3)]
        router.eventually(lambda: len(router.servers["base"].seen) == 4)
        router.run(router.wire.drain(0.05))
        results = [router.end(call) for call in calls]
    assert {result.status for result in results} == {grpc.StatusCode.UNAVAILABLE}
    router.eventually(lambda: router.servers["base"].seen[-1].is_cancelled)


# Who may call.


def minted(**fields: Any) -> tuple[str, Token]:
    token, text = issue(
        name="ci",
        role=Role.FEEDBACK,
        models=(),
        now=time.time(),
        expires_s=None,
        created_by="test",
        entropy=secrets.token_bytes,
    )
    return text, dataclasses.replace(token, **fields)


def bearing(text: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {text}")


def test_callers_have_to_prove_who_they_are(start: Start) -> None:
    text, token = minted()
    other, another = minted()
    router = start(tokens=Rules(tokens=by_id([token, another])))
    assert router.ask().status is grpc.StatusCode.UNAUTHENTICATED
    assert router.ask(None, bearing(text)).variant == "base"
    with router.takes(2):
        for _ in range(2):
            assert router.ask(None, bearing(text)).variant == "base"
    with router.takes(0):
        assert router.ask().status is grpc.StatusCode.UNAUTHENTICATED
        assert router.ask(None, bearing(text[:-1] + "x")).status is grpc.StatusCode.UNAUTHENTICATED
        assert router.ask(None, ("authorization", "")).status is grpc.StatusCode.UNAUTHENTICATED
        assert router.ask(None, bearing(other)).variant == "base"
    with router.takes(2):
        assert router.ask(None, bearing(other)).variant == "base"
        assert router.ask(None, bearing(text)).variant == "base"
    assert not any(b"authorization" in dict(each.fields) for each in router.servers["base"].seen)


def test_a_revoked_token_is_refused_at_the_next_request(start: Start) -> None:
    text, token = minted()
    router = start(tokens=Rules(tokens=by_id([token])))
    for _ in range(3):
        assert router.ask(None, bearing(text)).variant == "base"
    router.follow(Rules(tokens=by_id([dataclasses.replace(token, revoked_s=time.time() - 1)])))
    with router.takes(0):
        assert router.ask(None, bearing(text)).status is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_that_expires_is_refused_within_a_second(start: Start) -> None:
    text, token = minted(expires_s=time.time() + 0.5)
    router = start(tokens=Rules(tokens=by_id([token])))
    for _ in range(3):
        assert router.ask(None, bearing(text)).variant == "base"
    give_up = time.monotonic() + 0.5 + 1.2
    while router.ask(None, bearing(text)).status is grpc.StatusCode.OK:
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_token_that_expires_while_nobody_calls_is_refused(start: Start) -> None:
    text, token = minted(expires_s=time.time() + 0.4)
    router = start(tokens=Rules(tokens=by_id([token])))
    for _ in range(3):
        assert router.ask(None, bearing(text)).variant == "base"
    time.sleep(1.1)
    assert router.ask(None, bearing(text)).status is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_for_other_models_is_refused(start: Start) -> None:
    text, token = minted()
    other, another = minted(models=("n",))
    router = start(tokens=Rules(tokens=by_id([token, another])))
    for _ in range(2):
        assert router.ask(None, bearing(text)).variant == "base"
    assert router.ask(None, bearing(other)).status is grpc.StatusCode.PERMISSION_DENIED
    with router.takes(0):
        assert router.ask(None, bearing(other)).status is grpc.StatusCode.PERMISSION_DENIED


def test_a_sticky_unit_that_is_not_known_before_is_evidence(router: Router) -> None:
    split(router)
    with router.takes(1):
        result = router.ask(None, ("x-user-id", "somebody new"))
    assert router.record_of(result).flags == Flag.EVIDENCE | Flag.STICKY
