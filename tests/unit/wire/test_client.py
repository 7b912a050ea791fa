"""The values of the client's seam."""

import pytest

from anabranch.wire.client import ChannelLimits, Reply, Target
from anabranch.wire.client_connect import Backoff
from anabranch.wire.seam import Status


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("localhost:8080", "localhost", 8080), ("[::1]:50051", "::1", 50051), ("10.0.0.1:1", "10.0.0.1", 1)],
)
def test_a_target_is_read_and_shown_alike(text: str, host: str, port: int) -> None:
    target = Target.parse(text)
    assert (target.host, target.port) == (host, port)
    assert str(target) == text


@pytest.mark.parametrize("text", ["", "localhost", ":80", "localhost:", "localhost:http", "a:0", "a:65536"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="target is"):
        Target.parse(text)


def test_limits_that_no_call_could_meet_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_pending is 0"):
        ChannelLimits(max_pending=0)
    with pytest.raises(ValueError, match=r"min_connections is 9: give at most max_connections, 8"):
        ChannelLimits(min_connections=9)
    with pytest.raises(ValueError, match=r"stream_window_bytes is 100: HTTP/2 allows"):
        ChannelLimits(stream_window_bytes=100)


def test_a_field_is_found_among_headers_and_then_trailers() -> None:
    reply = Reply(
        Status.OK,
        "",
        b"",
        headers=[(b"x-a", b"1"), (b"x-a", b"2")],
        trailers=[(b"x-a", b"3"), (b"x-b", b"4")],
    )
    assert (reply.find(b"x-a"), reply.find(b"x-b"), reply.find(b"x-c")) == ("1", "4", None)
    assert reply.metadata == [("x-a", "1"), ("x-a", "2")]
    assert reply.trailing == [("x-a", "3"), ("x-b", "4")]


def test_pauses_double_up_to_the_longest_and_begin_again() -> None:
    backoff = Backoff(0.25, 15.0, draw=lambda: 0.5)
    pauses = []
    for _ in range(9):
        backoff.failed(100.0)
        pauses.append(backoff.retry_at - 100.0)
    assert pauses == pytest.approx([0.25, 0.5, 1, 2, 4, 8, 15, 15, 15])
    backoff.succeeded()
    assert backoff.retry_at == 0
    backoff.failed(100.0)
    assert backoff.retry_at == pytest.approx(100.25)


@pytest.mark.parametrize(("draw", "pause_s"), [(0.0, 0.8), (0.999, 1.2)])
def test_pauses_differ_by_a_fifth_to_either_side(draw: float, pause_s: float) -> None:
    backoff = Backoff(1.0, 15.0, draw=lambda: draw)
    backoff.failed(0.0)
    assert backoff.retry_at == pytest.approx(pause_s, abs=0.001)


def test_a_very_long_outage_overflows_nothing() -> None:
    backoff = Backoff(1.0, 15.0, draw=lambda: 0.5)
    for _ in range(5000):
        backoff.failed(0.0)
    assert backoff.retry_at == pytest.approx(15.0)
