"""gRPC's frames, timeouts, metadata and statuses."""

import gzip
import zlib
from collections.abc import Callable
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.wire.grpc_framing import (
    FramingError,
    MessageReader,
    decode_metadata,
    decompress,
    encode_message,
    encode_metadata,
    frame,
    is_grpc,
    parse_timeout,
    status_trailers,
)
from anabranch.wire.seam import Status

_names = st.from_regex(r"x-[a-z0-9_.\-]{0,20}", fullmatch=True).filter(lambda name: not name.endswith("-bin"))
_texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)).map(lambda text: text.strip(" "))
_pairs = st.lists(
    st.one_of(
        st.tuples(_names, _texts),
        st.tuples(_names.map(lambda name: f"{name}-bin"), st.binary(max_size=40)),
    ),
    max_size=6,
)


@st.composite
def _cut(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Messages, and their bytes in pieces of any size."""
    messages = draw(st.lists(st.binary(max_size=9000), max_size=5))
    data = b"".join(frame(message) for message in messages)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return messages, [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(_cut())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_messages_are_the_same_however_their_bytes_arrive(cut: tuple[list[bytes], list[bytes]]) -> None:
    messages, pieces = cut
    reader = MessageReader(10_000, None)
    assert [message for piece in pieces for message in reader.feed(piece)] == messages
    assert reader.buffered_bytes == 0


def test_what_is_held_of_an_incomplete_message_is_counted() -> None:
    reader = MessageReader(100_000, None)
    assert reader.feed(frame(bytes(50_000))[:20_005]) == []
    assert reader.buffered_bytes == 20_000
    assert reader.feed(bytes(1)) == []
    assert reader.buffered_bytes == 20_001
    assert reader.feed(bytes(29_999)) == [bytes(50_000)]
    assert reader.buffered_bytes == 0


def test_a_message_over_the_limit_is_refused_by_its_announced_size() -> None:
    with pytest.raises(FramingError, match="the message has 101 bytes, the limit is 100") as caught:
        MessageReader(100, None).feed(b"\0\0\0\0\x65")
    assert caught.value.status is Status.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_compressed_and_plain_messages_may_alternate(encoding: bytes, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(b"a" * 1000)
    data = (
        b"\1"
        + len(packed).to_bytes(4, "big")
        + packed
        + frame(b"plain")
        + b"\1"
        + len(packed).to_bytes(4, "big")
        + packed
    )
    assert MessageReader(1000, encoding).feed(data) == [b"a" * 1000, b"plain", b"a" * 1000]


def test_a_message_that_unfolds_over_the_limit_is_never_unfolded() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    with pytest.raises(FramingError, match="more than 1000 bytes, the limit is 1000") as caught:
        decompress(bomb, b"gzip", 1000)
    assert caught.value.status is Status.RESOURCE_EXHAUSTED
    assert decompress(gzip.compress(bytes(1000)), b"gzip", 1000) == bytes(1000)


@pytest.mark.parametrize("damage", [b"", b"x", gzip.compress(b"abc")[:-1], gzip.compress(b"abc") + b"x"])
def test_damaged_compressed_messages_are_refused(damage: bytes) -> None:
    with pytest.raises(FramingError, match="no valid gzip data") as caught:
        decompress(damage, b"gzip", 1000)
    assert caught.value.status is Status.INTERNAL


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"250m", 0.25),
        (b"99999999u", 99.999999),
        (b"7n", 7e-9),
        (b"0S", 0),
    ],
)
def test_timeouts_are_read_in_every_unit(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "value", [b"", b"S", b"1", b"1s", b"123456789S", b"-1S", b"+1S", b"1_0S", b"1.5S", b" 1S", b"\xb2S"]
)
def test_other_timeouts_are_refused(value: bytes) -> None:
    with pytest.raises(FramingError, match="give 1 to 8 digits and a unit of H M S m u n"):
        parse_timeout(value)


@pytest.mark.parametrize(
    ("content_type", "yes"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;x=1", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
        (None, False),
    ],
)
def test_content_types_of_grpc_are_told_apart(content_type: bytes | None, yes: bool) -> None:
    assert is_grpc(content_type) is yes


@given(_pairs)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_metadata_comes_back_in_order(pairs: list[tuple[str, str | bytes]]) -> None:
    assert decode_metadata(encode_metadata(pairs)) == pairs


def test_the_fields_of_http2_and_grpc_are_no_metadata() -> None:
    headers = [
        (b":path", b"/a/B"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"1S"),
        (b"user-agent", b"u"),
    ]
    assert decode_metadata(headers) == [("user-agent", "u")]


def test_joined_and_padded_binary_values_are_read() -> None:
    assert decode_metadata([(b"k-bin", b"AQI=,Aw")]) == [("k-bin", b"\1\2"), ("k-bin", b"\3")]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("X-Upper", "v", "give lower-case letters"),
        ("grpc-status", "0", "no name of gRPC's own"),
        ("content-type", "x", "no name of gRPC's own"),
        ("", "v", "give lower-case letters"),
        ("x", "line\nbreak", "give printable ASCII"),
        ("x", "ä", "give printable ASCII"),
        ("x", " v", "without outer spaces"),
        ("x", b"v", "a name that ends in -bin"),
        ("x-bin", "v", "takes bytes"),
    ],
)
def test_metadata_that_cannot_be_sent_is_refused(name: str, value: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_metadata([(name, value)])


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_status_messages_in_any_script_come_back(text: str) -> None:
    encoded = encode_message(text)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert unquote(encoded.decode("ascii"), errors="strict") == text


@pytest.mark.parametrize("text", ["n" * 100_000, "推" * 100_000, "%" * 5000, "a推" * 3000])
def test_a_long_status_message_is_cut_between_characters(text: str) -> None:
    encoded = encode_message(text)
    assert 3000 < len(encoded) <= 4096
    assert text.startswith(unquote(encoded.decode("ascii"), errors="strict"))


def test_trailers_name_status_message_and_metadata() -> None:
    assert status_trailers(Status.NOT_FOUND, "no model", [("x-k", "v")]) == [
        (b"grpc-status", b"5"),
        (b"grpc-message", b"no model"),
        (b"x-k", b"v"),
    ]
