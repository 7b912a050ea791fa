from base64 import urlsafe_b64encode
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch import _native
from anabranch.bandit.assignment import unit_point
from anabranch.proto import native as module
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto import outline
from anabranch.proto.scan import ScanError
from anabranch.wire import grpc_framing


@pytest.fixture(autouse=True)
def _afresh() -> None:
    module.native.cache_clear()
    module._load.cache_clear()


def test_what_was_compiled_from_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "SOURCE_DIGEST", "of an older engine.c")
    assert module.native() is None
    assert "make native" in module.describe_native()
    monkeypatch.setenv("ANABRANCH_NATIVE", "on")
    module.native.cache_clear()
    with pytest.raises(RuntimeError, match="make native"):
        module.native()
    module.native.cache_clear()


def test_the_switch_chooses_and_knows_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_NATIVE", "off")
    assert module.native() is None
    assert module.describe_native() == "Python alone, as asked"
    monkeypatch.setenv("ANABRANCH_NATIVE", "fast")
    module.native.cache_clear()
    with pytest.raises(RuntimeError, match="on or off"):
        module.native()
    module.native.cache_clear()


def by_python(message: bytes, monkeypatch: pytest.MonkeyPatch) -> outline.Outline:
    with monkeypatch.context() as patched:
        patched.setattr(outline, "_compiled", None)
        return outline.split(message)


def test_a_message_is_taken_apart_as_python_does(monkeypatch: pytest.MonkeyPatch) -> None:
    request = pb.ModelInferRequest(model_name="m", model_version="3", id="mine")
    request.parameters["priority"].int64_param = 1
    for shape in ([1, 2], [3]):
        request.inputs.add(name="x", datatype="FP32", shape=shape)
    request.raw_input_contents.extend([bytes(8), bytes(300)])
    message = request.SerializeToString()
    parts = _native.split(message, outline.REQUEST_RAW)
    assert parts == by_python(message, monkeypatch)
    assert parts is not None
    assert parts[1] == b"mine"


@settings(max_examples=300)
@given(
    message=st.binary(max_size=60)
    | st.lists(
        st.sampled_from(
            [b"\x0a\x01m", b"\x3a\x02ab", b"\x1a\x01i", b"\x3a\x80", b"\x1b", b"\x1a\x01\xff", b"\x08\x01"]
        ),
        max_size=8,
    ).map(b"".join)
)
def test_whatever_the_bytes_both_say_the_same(message: bytes) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        parts = _native.split(message, outline.REQUEST_RAW)
        try:
            expected = by_python(message, monkeypatch)
        except ScanError:
            assert parts is None
        else:
            assert parts in (None, expected)


@settings(max_examples=300)
@given(key=st.binary(max_size=64), data=st.binary(max_size=400))
def test_its_hashes_are_those_of_hashlib(key: bytes, data: bytes) -> None:
    assert _native.unit_digest(key, data) == blake2b(data, digest_size=16, key=key).digest()
    assert _native.unit_point(key, data) == unit_point(key, data)
    body = data[:128]
    mac = blake2b(body, digest_size=8, key=key).digest()
    assert _native.seal(key, body) == urlsafe_b64encode(body + mac).decode().rstrip("=")


def test_what_is_too_long_for_it_is_refused() -> None:
    with pytest.raises(TypeError, match="64 bytes"):
        _native.unit_point(bytes(65), b"unit")
    with pytest.raises(ValueError, match="128 bytes"):
        _native.seal(bytes(32), bytes(129))


_names = st.sampled_from(
    [
        "x-unit",
        "a.b_c-9",
        "te",
        "grpc-timeout",
        "content-type",
        ":path",
        "x-trace-bin",
        "Upper",
        "",
        "host",
        "é",
    ]
) | st.text(max_size=8)
_values = st.sampled_from(["", " ", "a b", " a", "a ", "tab\t", "del\x7f", "é", "x" * 60]) | st.text(
    max_size=8
)


@settings(max_examples=300)
@given(st.lists(st.tuples(_names, _values | st.binary(max_size=8)), max_size=4))
def test_metadata_becomes_the_fields_that_python_writes(metadata: list[tuple[str, str | bytes]]) -> None:
    fields = _native.encode_metadata(metadata)
    if fields is None:
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(grpc_framing, "_encode_plain", None)
        assert fields == grpc_framing.encode_metadata(metadata)


@settings(max_examples=300)
@given(st.lists(st.tuples(_names, _values), max_size=4))
def test_fields_become_the_metadata_that_python_reads(pairs: list[tuple[str, str]]) -> None:
    headers = [(name.encode(), value.encode()) for name, value in pairs]
    metadata = _native.decode_metadata(headers)
    if metadata is None:
        assert any(name.endswith(b"-bin") for name, _ in headers)
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(grpc_framing, "_decode_plain", None)
        assert metadata == grpc_framing.decode_metadata(headers)


def test_plain_metadata_is_not_left_to_python() -> None:
    metadata = [("x-unit", "user 1"), ("x-assignment-id", "A" * 52), ("empty", "")]
    fields = [(b"x-unit", b"user 1"), (b"x-assignment-id", b"A" * 52), (b"empty", b"")]
    assert _native.encode_metadata(metadata) == fields
    assert _native.decode_metadata([(b":path", b"/m"), (b"te", b"trailers"), *fields]) == metadata


@pytest.mark.parametrize("given", [[1], [("a",)], [("a", 1)], [["a", "b"]]])
def test_what_is_no_metadata_is_left_to_python(given: list[object]) -> None:
    assert _native.encode_metadata(given) is None  # type: ignore[arg-type]
    assert _native.decode_metadata(given) is None  # type: ignore[arg-type]
