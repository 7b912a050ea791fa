"""Variants' servers that misbehave: at HTTP/2's level, with their connections, with what they answer."""

import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from anabranch.store.records import Flag
from anabranch.wire.seam import Status

Router = Any
Start = Callable[..., Any]

CAND, BASE = ("x-user-id", "user-1"), ("x-user-id", "user-3")
MASKED = Flag.EVIDENCE | Flag.STICKY | Flag.MASKED
REFUSED_STREAM, INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM = 7, 2, 8, 11


@pytest.fixture
def split(router: Router) -> Router:
    """A router that has learnt to split its requests."""
    router.publish(0.5, unit_metadata="x-user-id")
    assert [router.ask(None, unit).variant for unit in (CAND, BASE)] == ["cand", "base"]
    return router


def once(first: Callable[[Any], None]) -> Callable[[Any], None]:
    """Does something with the first request, and answers the others."""
    is_done = False

    def behave(asked: Any) -> None:
        nonlocal is_done
        if is_done:
            asked.answer()
            return
        is_done = True
        first(asked)

    return behave


def masked(split: Router, status: Status) -> None:
    """Ask the candidate, which fails: the baseline answers."""
    with split.takes(1):
        result = split.ask(None, CAND)
    assert result.response.model_version == "base"
    record = split.record_of(result)
    assert (record.arm, record.flags, record.status) == (1, MASKED, status)
    assert split.counts() == {"answered": 3, "masked": 1}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (INTERNAL_ERROR, Status.INTERNAL),
        (CANCEL, Status.UNAVAILABLE),
        (ENHANCE_YOUR_CALM, Status.RESOURCE_EXHAUSTED),
        (99, Status.INTERNAL),
    ],
)
def test_a_stream_that_is_reset(split: Router, code: int, status: Status) -> None:
    split.servers["cand"].behave = lambda asked: asked.reset(code)
    masked(split, status)


def test_a_refused_stream_is_sent_once_more(split: Router) -> None:
    server = split.servers["cand"]
    server.behave = once(lambda asked: asked.reset(REFUSED_STREAM))
    with split.takes(1):
        result = split.ask(None, CAND)
    assert result.variant == "cand"
    first, second = server.seen[1:]
    assert (first.message, first.metadata) == (second.message, second.metadata)
    record = split.record_of(result)
    assert (record.arm, record.flags, record.status) == (1, Flag.EVIDENCE | Flag.STICKY, 0)
    assert split.counts() == {"answered": 3}


def test_a_stream_that_is_refused_again_has_failed(split: Router) -> None:
    server = split.servers["cand"]
    server.behave = lambda asked: asked.reset(REFUSED_STREAM)
    masked(split, Status.UNAVAILABLE)
    assert len(server.seen) == 3


def test_a_refused_request_with_a_deadline_keeps_it(split: Router) -> None:
    server = split.servers["cand"]
    split.ask(None, CAND, timeout=20)
    server.behave = once(lambda asked: asked.later(0.15, lambda asked: asked.reset(REFUSED_STREAM)))
    with split.takes(1):
        assert split.ask(None, CAND, timeout=2).variant == "cand"
    told = server.seen[-1].timeout
    assert told[-1:] == b"m"
    assert 1500 < int(told[:-1]) <= 1870


def test_connections_that_are_closed_with_requests_in_flight(split: Router) -> None:
    split.servers["cand"].behave = lambda asked: asked.connection.transport.abort()
    masked(split, Status.UNAVAILABLE)


def test_a_connection_that_is_closed_in_mid_answer(split: Router, scripted: Any) -> None:
    def half(asked: Any) -> None:
        engine = asked.connection.engine
        engine.send_response(asked.stream, scripted.HEAD)
        engine.send_data(asked.stream, scripted.framed(scripted.scores(asked.message))[:20])
        asked.connection.flush()
        asked.later(0.02, lambda asked: asked.connection.transport.abort())

    split.servers["cand"].behave = half
    masked(split, Status.UNAVAILABLE)


def test_a_server_that_is_killed_with_many_requests_in_flight(split: Router) -> None:
    server = split.servers["cand"]
    server.behave = lambda asked: None
    calls = [split.begin(split.request(id=str(n)), CAND) for n in range(100)]
    split.eventually(lambda: len(server.seen) == 101)
    split.do(server.stop)
    results = [split.end(call) for call in calls]
    assert {result.variant for result in results} == {"base"}
    assert [result.response.id for result in results] == [str(n) for n in range(100)]
    assert {split.record_of(result).status for result in results} == {Status.UNAVAILABLE}
    assert split.counts() == {"answered": 102, "masked": 100}
    with split.takes(0):
        assert split.ask(None, CAND).variant == "base"
    # It comes back.
    split.run(server.start())
    server.behave = type(server).behave
    give_up = time.monotonic() + 10
    while split.ask(None, CAND).variant != "cand":
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_a_server_that_goes_away_has_its_requests_answered(split: Router, is_looked_at: bool) -> None:
    """GOAWAY: what the server will look at is waited for, the rest is sent again elsewhere."""
    server = split.servers["cand"]

    def go(asked: Any) -> None:
        asked.connection.transport.write(goaway(asked.stream if is_looked_at else asked.stream - 2))
        if is_looked_at:
            asked.later(0.05)

    server.behave = once(go)
    with split.takes(1):
        result = split.ask(None, CAND)
    assert result.variant == "cand"
    assert split.record_of(result).status == 0
    assert len(server.seen) == (2 if is_looked_at else 3)
    assert split.counts() == {"answered": 3}
    first = server.seen[0].connection
    assert split.ask(None, CAND).variant == "cand"
    assert server.seen[-1].connection is not first
    split.eventually(lambda: first.is_lost)


def goaway(last: int) -> bytes:
    payload = last.to_bytes(4, "big") + bytes(4)
    return len(payload).to_bytes(3, "big") + b"\7\0" + bytes(4) + payload


def test_many_requests_are_in_flight_when_a_server_goes_away(split: Router) -> None:
    server = split.servers["cand"]

    def go(asked: Any) -> None:
        if len(server.seen) == 31:
            asked.connection.transport.write(goaway(server.seen[11].stream))
            for each in server.seen[1:12]:
                each.later(0.01 * (each.stream % 5))
        elif len(server.seen) > 31:
            asked.answer()

    server.behave = go
    calls = [split.begin(split.request(id=str(n)), CAND) for n in range(30)]
    split.eventually(lambda: len(server.seen) >= 31)
    server.behave = type(server).behave
    results = [split.end(call) for call in calls]
    assert {result.variant for result in results} == {"cand"}
    assert [result.response.id for result in results] == [str(n) for n in range(30)]
    assert len(split.records()) == 32


@pytest.mark.parametrize(
    ("size", "pause_s"),
    [(0, 0.0), (12, 0.0), (250_000, 0.0), (0, 0.005), (60_000, 0.005), (250_000, 0.005), (60_000, 0.04)],
)
def test_answers_in_several_frames_and_reads(split: Router, scripted: Any, size: int, pause_s: float) -> None:
    size = size // 12 * 12
    data = bytes(range(256)) * (size // 256 + 1)

    def trickle(asked: Any) -> None:
        body = scripted.framed(scripted.scores(asked.message, data[:size]))
        cuts = [0, 3, 5, 6, 5 + (len(body) - 5) // 3, len(body)]
        engine = asked.connection.engine
        steps = [partial(engine.send_response, asked.stream, scripted.HEAD)]
        steps += [partial(engine.send_data, asked.stream, body[begin:end]) for begin, end in pairwise(cuts)]
        steps.append(partial(engine.send_trailers, asked.stream, scripted.OK))
        for number, step in enumerate(steps):
            asked.later(number * pause_s, partial(flushed, step))

    for server in split.servers.values():
        server.behave = trickle
    with split.takes(2):
        results = [split.ask(split.request(id="7"), unit) for unit in (CAND, BASE)]
    for result in results:
        assert result.response.raw_output_contents == [data[:size]]
        assert result.response.id == "7"
        assert split.record_of(result).status == 0
    assert [result.variant for result in results] == ["cand", "base"]
    assert len(split.records()) == 4


def flushed(step: Callable[[], None], asked: Any) -> None:
    step()
    asked.connection.flush()


def test_many_large_answers_at_once_pass_the_windows(split: Router, scripted: Any) -> None:
    data = bytes(range(252)) * 960
    for server in split.servers.values():
        server.behave = lambda asked: asked.later(0.02, lambda a: a.answer(scripted.scores(a.message, data)))
    calls = [split.begin(None, (CAND, BASE)[n % 2]) for n in range(80)]
    results = [split.end(call) for call in calls]
    assert all(result.response.raw_output_contents == [data] for result in results)


MALFORMED = {
    "a second message": lambda s, a: a.send(s.HEAD, s.framed(s.scores(a.message)) + s.framed(b"")),
    "a second message of several bytes": lambda s, a: a.send(s.HEAD, 2 * s.framed(s.scores(a.message))),
    "no message": lambda s, a: a.send(s.HEAD),
    "half a message": lambda s, a: a.send(s.HEAD, s.framed(s.scores(a.message))[:-3]),
    "half a prefix": lambda s, a: a.send(s.HEAD, b"\0\0\0"),
    "a compressed flag": lambda s, a: a.send(s.HEAD, b"\1" + s.framed(b"abc")[1:]),
    "a length of gigabytes": lambda s, a: a.send(s.HEAD, b"\0\xff\xff\xff\xffabc"),
}


@pytest.mark.parametrize("what", list(MALFORMED))
def test_answers_that_are_no_message(split: Router, scripted: Any, what: str) -> None:
    split.servers["cand"].behave = lambda asked: MALFORMED[what](scripted, asked)
    with split.takes(1):
        result = split.ask(None, CAND)
    assert result.response.model_version == "base"
    record = split.record_of(result)
    assert (record.arm, record.flags) == (1, MASKED)
    expected = Status.RESOURCE_EXHAUSTED if "gigabytes" in what else Status.INTERNAL
    assert record.status == expected
    assert split.counts() == {"answered": 3, "masked": 1}


@pytest.mark.parametrize(
    ("trailers", "status"),
    [
        ([(b"x-else", b"1")], Status.UNKNOWN),
        ([(b"grpc-status", b"5"), (b"grpc-message", b"no")], Status.NOT_FOUND),
        ([(b"grpc-status", b"zero")], Status.UNKNOWN),
        ([(b"grpc-status", b"")], Status.UNKNOWN),
        ([(b"grpc-status", b"00")], None),
        ([(b"grpc-status", b"0"), (b"grpc-status", b"13")], None),
        ([(b"grpc-status", b"13"), (b"grpc-status", b"0")], None),
        ([(b"grpc-status", b"0"), (b"x-assignment-id", b"theirs")], None),
    ],
)
def test_what_trailers_say_counts(
    start: Start, trailers: list[tuple[bytes, bytes]], status: Status | None
) -> None:
    """The first request is Python's on both paths: what it makes of such trailers is what is made of them."""
    split = start()
    split.publish(0.5, unit_metadata="x-user-id")
    split.ask(None, BASE)
    split.servers["cand"].behave = lambda asked: asked.answer(trailers=trailers)
    seen = []
    for message in (split.request(3), split.request(3)):
        result = split.ask(message, CAND)
        record = split.record_of(result)
        seen.append((result.variant, record.status, record.flags))
    assert seen[0] == seen[1]
    if status is not None:
        assert seen[0] == ("base", status, MASKED)


def test_a_status_before_the_message_is_none(split: Router, scripted: Any) -> None:
    head = [*scripted.HEAD, (b"grpc-status", b"0")]
    split.servers["cand"].behave = lambda asked: asked.answer(head=head, trailers=[(b"x-else", b"1")])
    masked(split, Status.UNKNOWN)


def test_an_early_answer_is_taken(split: Router, scripted: Any) -> None:
    """A server may answer, and say that it will read no further, while the request is on its way."""

    def early(asked: Any) -> None:
        asked.answer()
        asked.connection.flush()

    server = split.servers["cand"]
    server.behave = early
    request = split.request(100_000)
    for _ in range(2):
        assert split.ask(request, CAND).variant == "cand"


def test_an_answer_of_other_media_is_no_answer(split: Router) -> None:
    split.servers["cand"].behave = lambda asked: asked.answer(
        head=[(b":status", b"200"), (b"content-type", b"text/html")]
    )
    masked(split, Status.UNKNOWN)


@pytest.mark.parametrize(("http", "status"), [(b"503", Status.UNAVAILABLE), (b"404", Status.UNIMPLEMENTED)])
def test_an_answer_of_plain_http_is_no_answer(split: Router, http: bytes, status: Status) -> None:
    split.servers["cand"].behave = lambda asked: asked.answer(
        head=[(b":status", http), (b"content-type", b"application/grpc")]
    )
    masked(split, status)


def test_interim_answers_are_passed_over(split: Router) -> None:
    def hint(asked: Any) -> None:
        asked.connection.engine.send_informational_response(asked.stream, [(b":status", b"103")])
        asked.answer()

    split.servers["cand"].behave = hint
    with split.takes(1):
        assert split.ask(None, CAND).variant == "cand"


def test_an_answer_that_names_gzip_without_using_it(split: Router, scripted: Any) -> None:
    split.servers["cand"].behave = lambda asked: asked.answer(
        head=[*scripted.HEAD, (b"grpc-encoding", b"identity")]
    )
    with split.takes(1):
        assert split.ask(None, CAND).variant == "cand"


@pytest.mark.parametrize("unit", [CAND, BASE])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_ends_a_connection_ends_each_request_on_it(
    split: Router, frames: Any, unit: tuple[str, str], which: int
) -> None:
    """A stream that is reset, and a block of fields beyond every limit behind it, in one read."""
    server = split.servers["cand" if unit is CAND else "base"]

    def break_off(asked: Any) -> None:
        if len(server.seen) == 4:
            code = frames.INTERNAL_ERROR.to_bytes(4, "big")
            reset = frames.frame(frames.RST_STREAM, 0, server.seen[1 + which].stream, code)
            last = server.seen[1 if which else 2].stream
            bomb = (
                frames.block(scripted_head()) + frames.literal(b"x", b"a" * 3900, indexed=True) + b"\xbe" * 40
            )
            asked.connection.transport.write(
                reset + frames.frame(frames.HEADERS, frames.END_HEADERS, last, bomb)
            )

    server.behave = break_off
    calls = [split.begin(split.request(id=str(n)), unit) for n in range(3)]
    results = [split.end(call) for call in calls]
    if unit is CAND:
        assert {result.variant for result in results} == {"base"}
        assert split.counts() == {"answered": 5, "masked": 3}
    else:
        statuses = sorted(result.status.name for result in results)
        assert statuses in (3 * ["UNAVAILABLE"], ["INTERNAL", "UNAVAILABLE", "UNAVAILABLE"])
    assert len(split.records()) == 5


def scripted_head() -> list[tuple[bytes, bytes]]:
    return [(b":status", b"200"), (b"content-type", b"application/grpc")]
