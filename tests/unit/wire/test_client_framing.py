"""What a client says in its request headers, and reads in a response's."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.wire.client_framing import (
    decode_text,
    format_timeout,
    read_metadata,
    read_status,
    request_headers,
    status_of_http,
    status_of_reset,
)
from anabranch.wire.grpc_framing import encode_message, encode_metadata, parse_timeout, status_trailers
from anabranch.wire.seam import Status


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_a_timeout_is_rounded_up_by_little(left_s: float) -> None:
    sent = parse_timeout(format_timeout(left_s))
    assert sent >= min(left_s, 99_999_999.0) * (1 - 1e-9)
    assert sent <= max(left_s * 1.011, left_s + 1.1e-3)


def test_near_timeouts_are_written_alike() -> None:
    written = {format_timeout(10 + number * 1e-6) for number in range(1000)}
    assert written == {b"10000m", b"10100m"}
    assert format_timeout(0.0) == b"1u"
    assert format_timeout(math.inf) == b"99999999S"


@given(st.text())
def test_a_status_text_survives_its_encoding(text: str) -> None:
    encodable = text.encode("utf-8", "replace").decode()[:500]
    assert decode_text(encode_message(encodable)) == encodable


@pytest.mark.parametrize("status", list(Status))
def test_a_status_is_read_as_it_is_written(status: Status) -> None:
    assert read_status(status_trailers(status, "why: ünïcode")) == (status, "why: ünïcode")


def test_a_missing_or_unknown_status_is_unknown() -> None:
    assert read_status(())[0] is Status.UNKNOWN
    assert read_status([(b"grpc-status", b"17")]) == (Status.UNKNOWN, "the server's grpc-status is 17")
    assert read_status([(b"grpc-status", b"-1"), (b"grpc-message", b"own")]) == (Status.UNKNOWN, "own")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (b"400", Status.INTERNAL),
        (b"401", Status.UNAUTHENTICATED),
        (b"403", Status.PERMISSION_DENIED),
        (b"404", Status.UNIMPLEMENTED),
        (b"429", Status.UNAVAILABLE),
        (b"500", Status.UNKNOWN),
        (b"502", Status.UNAVAILABLE),
        (b"503", Status.UNAVAILABLE),
        (b"504", Status.UNAVAILABLE),
    ],
)
def test_an_http_status_becomes_a_grpc_status(code: bytes, status: Status) -> None:
    assert status_of_http({b":status": code})[0] is status


def test_a_reset_names_its_code() -> None:
    assert status_of_reset(7) == (
        Status.UNAVAILABLE,
        "the server reset the stream with HTTP/2 error code 7",
    )
    assert status_of_reset(1)[0] is Status.INTERNAL


def test_metadata_is_read_as_it_is_written() -> None:
    metadata: list[tuple[str, str | bytes]] = [
        ("x-a", "1"),
        ("x-a", "2"),
        ("x-b-bin", b"\0\xff,"),
        ("x-c-bin", b""),
    ]
    own = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"0")]
    assert read_metadata([*own, *encode_metadata(metadata)]) == metadata


@pytest.mark.parametrize("method", ["ModelInfer", "", "/päckage.Service/Method", "/a/b\n"])
def test_a_method_that_is_no_path_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="give a full name"):
        request_headers(method, "localhost", "http", "test")
