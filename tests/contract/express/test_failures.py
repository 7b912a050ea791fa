"""What goes wrong with a request on its way: at its variant, at its client, with time."""

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from anabranch.store.records import Flag
from anabranch.wire.seam import Status

Router = Any
Start = Callable[..., Any]

# With even weights and the salt of the suite, one unit of each arm.
CAND, BASE = ("x-user-id", "user-1"), ("x-user-id", "user-3")
MASKED = Flag.EVIDENCE | Flag.STICKY | Flag.MASKED


def never(_asked: Any) -> None:
    """Says nothing."""


@pytest.fixture
def split(router: Router) -> Router:
    """A router that has learnt to split its requests."""
    return learnt(router)


def learnt(router: Router) -> Router:
    router.publish(0.5, unit_metadata="x-user-id")
    # Requests with a deadline have a field more.
    assert router.ask(None, CAND, timeout=20).variant == "cand"
    assert router.ask(None, BASE).variant == "base"
    return router


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        (Status.CANCELLED, Status.UNAVAILABLE),
        (Status.UNKNOWN, Status.UNKNOWN),
        (Status.INVALID_ARGUMENT, Status.INVALID_ARGUMENT),
        (Status.NOT_FOUND, Status.NOT_FOUND),
        (Status.PERMISSION_DENIED, Status.PERMISSION_DENIED),
        (Status.RESOURCE_EXHAUSTED, Status.RESOURCE_EXHAUSTED),
        (Status.UNIMPLEMENTED, Status.UNIMPLEMENTED),
        (Status.INTERNAL, Status.INTERNAL),
        (Status.UNAVAILABLE, Status.UNAVAILABLE),
        (Status.DATA_LOSS, Status.DATA_LOSS),
        (Status.UNAUTHENTICATED, Status.UNAUTHENTICATED),
        (77, Status.UNKNOWN),
    ],
)
def test_a_candidate_that_fails_is_masked_by_the_baseline(split: Router, code: int, kept: Status) -> None:
    split.servers["cand"].behave = lambda asked: asked.fail(code)
    with split.takes(1):
        result = split.ask(None, CAND)
    assert (result.variant, result.response.model_version) == ("base", "base")
    said, record = split.opened(result), split.record_of(result)
    assert (said.arm, said.flags) == (record.arm, record.flags) == (1, MASKED)
    assert (record.status, record.batch_rows) == (kept, 1)
    assert record.propensity == pytest.approx(0.5)
    assert 0.0 < record.latency_ms < 1000.0
    assert record.unit == split.ids.digest(CAND[1].encode())
    assert split.counts() == {"answered": 3, "masked": 1}
    assert split.metered() == {"base": (1, 0, 0), "cand": (1, 1, 1)}
    # The baseline got what the candidate had got.
    mine, theirs = split.servers["base"].seen[-1], split.servers["cand"].seen[-1]
    assert (mine.message, mine.metadata) == (theirs.message, theirs.metadata)


def test_a_candidate_whose_deadline_has_passed_at_its_server_is_not_masked(split: Router) -> None:
    split.servers["cand"].behave = lambda asked: asked.fail(Status.DEADLINE_EXCEEDED)
    with split.takes(1):
        result = split.ask(None, CAND)
    assert result.status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert split.counts() == {"answered": 2, "failed: DEADLINE_EXCEEDED": 1}
    assert [record.status for record in split.records()] == [0, 0, Status.DEADLINE_EXCEEDED]


@pytest.mark.parametrize("code", [Status.INTERNAL, Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED])
def test_a_baseline_that_fails_is_told_as_it_is(split: Router, code: Status) -> None:
    split.servers["base"].behave = lambda asked: asked.fail(code, b"it is so")
    with split.takes(1):
        result = split.ask(None, BASE)
    assert (result.status.name, result.details) == (code.name, "variant base: it is so")
    assert (result.trailing["x-invoked-variant"], result.trailing["x-experiment"]) == ("base", "exp")
    said = split.ids.open(result.trailing["x-assignment-id"])
    (record,) = [record for record in split.records() if record.sequence == said.sequence]
    assert (record.arm, record.status, record.latency_ms) == (0, code, float("inf"))
    assert split.counts() == {"answered": 2, f"failed: {code.name}": 1}
    assert split.metered() == {"base": (1, 1, 0), "cand": (1, 0, 0)}


def test_a_baseline_that_refuses_what_was_sent_is_charged_with_nothing(split: Router) -> None:
    split.servers["base"].behave = lambda asked: asked.fail(Status.INVALID_ARGUMENT, b"no")
    with split.takes(1):
        result = split.ask(None, BASE)
    assert (result.status.name, result.details, result.trailing) == (
        "INVALID_ARGUMENT",
        "variant base: no",
        {},
    )
    assert len(split.records()) == 2
    assert split.counts() == {"answered": 2, "refused: INVALID_ARGUMENT": 1}


def test_both_fail(split: Router) -> None:
    for server in split.servers.values():
        server.behave = lambda asked: asked.fail(Status.INTERNAL)
    with split.takes(1):
        result = split.ask(None, CAND)
    assert result.status is grpc.StatusCode.INTERNAL
    assert result.trailing["x-invoked-variant"] == "base"
    assert split.counts() == {"answered": 2, "masked": 1, "failed: INTERNAL": 1}
    last = split.records()[-1]
    assert (last.arm, last.flags, last.status, last.latency_ms) == (1, MASKED, Status.INTERNAL, float("inf"))


@pytest.mark.parametrize("unit", [CAND, BASE])
def test_a_deadline_is_told_to_the_server(split: Router, unit: tuple[str, str]) -> None:
    expected = []
    for timeout in (0.3, 1.0, 7.77, 20.0, 99.0, 200.0, 5000.0):
        with split.takes(1):
            assert split.ask(None, unit, timeout=timeout).variant
        expected.append(timeout)
    seen = split.servers["cand" if unit is CAND else "base"].seen[1:]
    unit_s = {b"S": 1.0, b"m": 1e-3, b"u": 1e-6}
    told = [float(each.timeout[:-1]) * unit_s[each.timeout[-1:]] for each in seen]
    for timeout, given in zip(expected, told, strict=True):
        assert timeout * 0.9 - 0.05 <= given <= timeout + max(0.001, timeout / 50)


def test_a_short_deadline_is_pythons(split: Router) -> None:
    with split.takes(0):
        assert split.ask(None, BASE, timeout=0.2).variant == "base"


def test_a_client_whose_deadline_passes_hears_so(split: Router) -> None:
    split.servers["base"].behave = lambda asked: asked.later(1.0)
    began = time.monotonic()
    with split.takes(1):
        result = split.ask(None, BASE, timeout=0.4)
    assert result.status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.35 < time.monotonic() - began < 0.9
    split.eventually(lambda: split.servers["base"].seen[-1].is_cancelled)
    split.eventually(lambda: not any(split.left().values()))
    last = split.records()[-1]
    # This client looks at its deadline itself: its reset may come first.
    assert last.status in (Status.DEADLINE_EXCEEDED, Status.CANCELLED)
    assert (last.arm, last.latency_ms) == (0, float("inf"))
    assert split.counts() == {"answered": 2, f"failed: {Status(last.status).name}": 1}


@pytest.mark.parametrize("unit", [CAND, BASE])
@pytest.mark.parametrize("wait_s", [0.0, 0.02, 0.2])
def test_a_cancelled_request_is_cancelled_at_the_server(
    split: Router, unit: tuple[str, str], wait_s: float
) -> None:
    name = "cand" if unit is CAND else "base"
    server = split.servers[name]
    server.behave = never
    with split.takes(1):
        call = split.begin(None, unit)
        split.eventually(lambda: len(server.seen) == 2)
        time.sleep(wait_s)
        call.cancel()
        split.eventually(lambda: server.seen[-1].is_cancelled)
    split.eventually(lambda: not any(split.left().values()))
    assert split.counts() == {"answered": 2, "failed: CANCELLED": 1}
    last = split.records()[-1]
    assert (last.arm, last.status, last.latency_ms) == (int(unit is CAND), Status.CANCELLED, float("inf"))
    assert split.metered()[name] == (1, 1, 0)
    assert split.wire.stats.cancelled == 1


@pytest.mark.parametrize("after_s", [0.05, 0.18])
def test_a_slow_answer_is_recorded_once(split: Router, after_s: float) -> None:
    for server in split.servers.values():
        server.behave = lambda asked: asked.later(after_s)
    with split.takes(2):
        results = [split.ask(None, unit) for unit in (CAND, BASE)]
    assert [result.variant for result in results] == ["cand", "base"]
    for result in results:
        record = split.record_of(result)
        assert 1000 * after_s - 2 <= record.latency_ms <= 1000 * after_s + 60
        assert 1000 * after_s - 5 <= record.compute_ms <= 1000 * after_s + 60
        assert (record.status, record.batch_rows) == (0, 1)
    assert len(split.records()) == 4
    assert split.counts() == {"answered": 4}
    assert split.metered() == {"base": (2, 0, 0), "cand": (2, 0, 0)}


def test_many_slow_answers_at_once(split: Router) -> None:
    for server in split.servers.values():
        server.behave = lambda asked: asked.later(0.13)
    with split.takes(200):
        calls = [split.begin(split.request(id=str(n)), ("x-user-id", f"user-{n}")) for n in range(200)]
        results = [split.end(call) for call in calls]
    assert [result.response.id for result in results] == [str(n) for n in range(200)]
    assert len(split.records()) == 202


def test_the_baseline_stands_in_for_a_candidate_that_takes_too_long(split: Router) -> None:
    split.servers["cand"].behave = never
    began = time.monotonic()
    with split.takes(1):
        result = split.ask(None, CAND, timeout=1.0)
    # The baseline's latencies are not known yet: it gets a tenth of a second.
    assert 0.88 < time.monotonic() - began < 1.0
    assert result.variant == "base"
    assert split.counts() == {"answered": 3, "masked": 1, "hedged": 1}
    record = split.record_of(result)
    assert (record.arm, record.flags, record.status) == (1, MASKED, Status.DEADLINE_EXCEEDED)
    assert record.latency_ms == float("inf")
    split.eventually(lambda: split.servers["cand"].seen[-1].is_cancelled)


@pytest.mark.parametrize(("timeout", "expected_s"), [(0.26, 0.16), (0.4, 0.3)])
def test_the_baseline_stands_in_as_early_as_ever(split: Router, timeout: float, expected_s: float) -> None:
    split.servers["cand"].behave = never
    with split.takes(3):
        # What the machine does beside this only makes it later.
        assert expected_s - 0.01 < min(stood_in(split, timeout=timeout) for _ in range(3)) < expected_s + 0.02


def test_a_candidate_gets_no_more_than_its_time(start: Start) -> None:
    split = learnt(start(candidate_timeout_s=0.3))
    split.servers["cand"].behave = never
    with split.takes(3):
        assert 0.29 < min(stood_in(split) for _ in range(3)) < 0.34
    assert split.counts() == {"answered": 5, "masked": 3, "hedged": 3}


def stood_in(split: Router, **options: Any) -> float:
    """Seconds until the baseline was asked for a candidate."""
    asked_at: list[float] = []

    def answer(asked: Any) -> None:
        asked_at.append(time.monotonic())
        asked.answer()

    split.servers["base"].behave = answer
    began = time.monotonic()
    assert split.ask(None, CAND, **options).variant == "base"
    return asked_at[0] - began


def test_a_candidate_that_may_take_little_time_is_pythons(start: Start) -> None:
    split = start(candidate_timeout_s=0.2)
    split.publish(0.5, unit_metadata="x-user-id")
    split.ask(None, CAND)
    with split.takes(0):
        split.ask(None, CAND)
    split.servers["cand"].behave = never
    assert split.ask(None, CAND).variant == "base"


def test_a_candidate_that_answers_before_the_baseline_wins(start: Start) -> None:
    split = learnt(start(candidate_timeout_s=0.26))
    split.servers["cand"].behave = lambda asked: asked.later(0.32)
    split.servers["base"].behave = lambda asked: asked.later(0.5)
    with split.takes(1):
        result = split.ask(None, CAND)
    assert result.variant == "cand"
    record = split.record_of(result)
    assert (record.flags, record.status) == (Flag.EVIDENCE | Flag.STICKY, 0)
    assert split.counts() == {"answered": 3, "hedged": 1}
    split.eventually(lambda: split.servers["base"].seen[-1].is_cancelled)
