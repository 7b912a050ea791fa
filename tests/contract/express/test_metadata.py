"""What a client says beside its message: passed on, kept back, or looked at."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import grpc
import pytest

from anabranch.bandit.assignment import assign, unit_point
from anabranch.store.records import Flag

Router = Any
Start = Callable[..., Any]


def told(router: Router, name: str = "base") -> list[list[tuple[bytes, bytes]]]:
    """By request, the metadata that a variant's server saw."""
    return [each.metadata for each in router.servers[name].seen]


def test_metadata_goes_on_but_for_what_is_this_servers(router: Router) -> None:
    given = [("x-b", "two"), ("x-a", "one one"), ("traceparent", "00-1-2-3"), ("x-empty", "")]
    kept = [("authorization", "Bearer me"), ("cookie", "a=b"), ("host", "here"), ("x-api", "k, l")]
    router.ask(None, *given, *kept)
    with router.takes(1):
        router.ask(None, *given, *kept)
    with router.takes(1):
        router.ask(None, *[(name, f"{value}!") for name, value in (*given, *kept)])
    expected = [(name.encode(), value.encode()) for name, value in (*given, ("x-api", "k, l"))]
    first, second, third = told(router)
    assert sorted(first) == sorted(second) == sorted(expected)
    assert first == second
    assert sorted(third) == sorted((name, value + b"!") for name, value in expected)
    agents = [dict(each.fields)[b"user-agent"] for each in router.servers["base"].seen]
    assert len(set(agents)) == 1
    assert b"anabranch" in agents[0]


def test_binary_metadata_goes_on(router: Router) -> None:
    router.ask()
    for value in (b"\0\xff", b"", b"\0\xfe"):
        assert router.ask(None, ("x-raw-bin", value)).variant == "base"
    assert told(router)[1:] == [[(b"x-raw-bin", b"AP8")], [(b"x-raw-bin", b"")], [(b"x-raw-bin", b"AP4")]]


def test_metadata_given_twice_goes_on_twice(router: Router) -> None:
    for _ in range(2):
        router.ask(None, ("x-tag", "a"), ("x-tag", "b"))
    assert told(router) == 2 * [[(b"x-tag", b"a"), (b"x-tag", b"b")]]


def test_requests_with_other_metadata_are_other_kinds(router: Router) -> None:
    router.ask(None, ("x-a", "1"))
    with router.takes(0):
        router.ask(None, ("x-b", "1"))
        router.ask()
        router.ask(None, ("x-a", "1"), ("x-b", "1"))
        router.ask(None, ("x-target-variant", "cand"), ("x-a", "1"))
    assert told(router, "cand") == [[(b"x-a", b"1")]]


@pytest.mark.parametrize(
    "value",
    [b"caf\xc3\xa9", b"\xff", b"tab\there", b" padded", b"padded ", b"\x7f"],
    ids=["utf-8", "latin-1", "tab", "space before", "space behind", "delete"],
)
def test_values_that_cannot_be_sent_on_end_as_ever(router: Router, frames: ModuleType, value: bytes) -> None:
    """HTTP/2 lets some of them pass; what Python makes of them, once and again, is what is made of them."""
    results = []
    wild = frames.Wild(router.port)
    message = router.request()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    streams = iter(range(1, 100, 2))

    def send(value: bytes) -> int:
        stream = next(streams)
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
            (b":authority", b"test"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"x-odd", value),
        ]
        wild.send(
            frames.frame(frames.HEADERS, frames.END_HEADERS, stream, frames.block(fields))
            + frames.frame(frames.DATA, frames.END_STREAM, stream, body)
        )
        size = 0
        for kind, flags, on, payload in wild.frames():
            size += len(payload) if kind == frames.DATA and on == stream else 0
            if on == stream and (flags & frames.END_STREAM or kind == frames.RST_STREAM):
                break
        return size

    send(b"plain")
    with router.takes(1):
        assert send(b"plain") > 0
    before = len(told(router))
    with router.takes(0):
        results = [send(value) > 0 for _ in range(2)]
    assert results[0] == results[1]
    assert len(told(router)) - before == sum(results)
    wild.close()


def test_names_that_cannot_be_sent_on_end_as_ever(router: Router, raw: ModuleType) -> None:
    client = raw.RawClient(router.port)
    statuses = [client.status(client.send(router.request(), (b"x!odd", b"1"))) for _ in range(3)]
    assert len(set(statuses)) == 1
    assert len(told(router)) == (3 if statuses[0] == 0 else 0)
    client.cut()


def test_a_request_without_its_unit_is_the_baselines(router: Router) -> None:
    router.publish(1.0, unit_metadata="x-user-id")
    assert router.ask(None, ("x-user-id", "ada")).variant == "cand"
    with router.takes(0):
        for metadata in ((), (("x-user-id", ""),), (("x-user", "ada"),)):
            result = router.ask(None, *metadata)
            assert result.variant == "base"
            assert router.record_of(result).flags == Flag.NONE
    with router.takes(1):
        assert router.ask(None, ("x-user-id", "bob")).variant == "cand"
    assert router.counts() == {"answered": 5, "no unit: baseline": 3}


@pytest.mark.parametrize("unit", ["user-bin", "grpc-user", "te", "x-user-id"])
def test_units_are_the_same_on_both_paths(router: Router, raw: ModuleType, unit: str) -> None:
    """A unit is the value as gRPC says it: of binary metadata its bytes, and none where the field is gRPC's own."""
    route = router.publish(0.5, unit_metadata=unit)
    client = raw.RawClient(router.port)
    values = [b"QUJD", b"dXNlcjE", b"dXNlcjI", b"dXNlcjM", b"QUJD"]
    field = unit.encode()
    for value in values:
        extra = () if unit == "te" else ((field, value),)
        assert client.status(client.send(router.request(), *extra)) == 0
    records = router.records()
    assert len(records) == len(values)
    units = {b"QUJD": b"ABC", b"dXNlcjE": b"user1", b"dXNlcjI": b"user2", b"dXNlcjM": b"user3"}
    for value, record in zip(values, records, strict=True):
        if unit in ("grpc-user", "te"):
            assert (record.arm, record.flags, record.unit) == (0, Flag.NONE, bytes(16))
            continue
        data = units[value] if unit == "user-bin" else value
        assert record.unit == router.ids.digest(data)
        assert record.arm == assign(route.layout, unit_point(b"5a17", data))[0]
    client.cut()


def test_a_unit_that_is_kept_back_names_the_unit_all_the_same(router: Router) -> None:
    route = router.publish(0.5, unit_metadata="cookie")
    for number in range(8):
        result = router.ask(None, ("cookie", f"u={number}"))
        arm, _ = assign(route.layout, unit_point(b"5a17", f"u={number}".encode()))
        assert router.record_of(result).arm == arm
    assert not any(b"cookie" in dict(pairs) for name in router.servers for pairs in told(router, name))


def test_a_unit_of_odd_bytes_is_the_same_on_both_paths(router: Router, raw: ModuleType) -> None:
    router.publish(0.5, unit_metadata="x-user-id")
    client = raw.RawClient(router.port)
    assert client.status(client.send(router.request(), (b"x-user-id", b"ada"))) == 0
    statuses = [
        client.status(client.send(router.request(), (b"x-user-id", b"caf\xc3\xa9"))) for _ in range(3)
    ]
    assert len(set(statuses)) == 1
    client.cut()


def test_compressed_requests_are_pythons(router: Router) -> None:
    router.ask()
    with router.takes(0):
        call = router.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(
            router.request(), compression=grpc.Compression.Gzip
        )
        assert router.end(call).variant == "base"


@pytest.mark.parametrize("timeout", [b"1", b"S", b"1x", b"-1S", b"123456789S", b"1.5S", b"", b"\0\0"])
def test_a_timeout_that_is_none_is_refused(router: Router, raw: ModuleType, timeout: bytes) -> None:
    client = raw.RawClient(router.port)
    assert client.status(client.send(router.request(), (b"grpc-timeout", b"20S"))) == 0
    with router.takes(0):
        stream = client.send(router.request(), (b"grpc-timeout", timeout))
        client.wait(stream)
        assert client.status(stream) != 0
    client.cut()


@pytest.mark.parametrize(
    "timeout", [b"99999999H", b"250m", b"250000u", b"99999999n", b"5M", b"00000001S", b"251m"]
)
def test_timeouts_go_on(router: Router, raw: ModuleType, timeout: bytes) -> None:
    client = raw.RawClient(router.port)
    assert client.status(client.send(router.request(), (b"grpc-timeout", b"20S"))) == 0
    assert client.status(client.send(router.request(), (b"grpc-timeout", timeout))) == 0
    given = router.servers["base"].seen[-1].timeout
    left_s = {b"99999999H": 3.6e11, b"5M": 300, b"00000001S": 1, b"99999999n": 0.1, b"251m": 0.251}
    expected = min(left_s.get(timeout, 0.25), 99999999)
    unit_s = {b"S": 1.0, b"m": 1e-3}
    assert float(given[:-1]) * unit_s[given[-1:]] == pytest.approx(expected, rel=0.03, abs=0.02)
    client.cut()
