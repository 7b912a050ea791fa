"""The seam's own values."""

import subprocess
import sys

import pytest

from anabranch.wire.seam import Call, Handlers, Limits, StreamCall


def _unary(call: Call, message: bytes) -> None:
    call.reply(message)


def _stream(call: StreamCall) -> None:
    call.finish()


def test_limits_that_no_request_could_meet_are_refused() -> None:
    with pytest.raises(ValueError, match=r"limits\.max_message_bytes is 0: give a positive number"):
        Limits(max_message_bytes=0)
    with pytest.raises(ValueError, match=r"limits\.idle_s is -1: give a positive number"):
        Limits(idle_s=-1)
    assert Limits(idle_s=None).idle_s is None


@pytest.mark.parametrize("size", [65_534, 1 << 31])
def test_windows_that_http2_does_not_allow_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="HTTP/2 allows 65535 to 2147483647"):
        Limits(stream_window_bytes=size)


def test_handlers_join() -> None:
    joined = Handlers(unary={"/a/B": _unary}) | Handlers(unary={"/a/C": _unary}, stream={"/a/D": _stream})
    assert (set(joined.unary), set(joined.stream)) == ({"/a/B", "/a/C"}, {"/a/D"})


def test_a_method_has_one_handler() -> None:
    with pytest.raises(ValueError, match="two handlers for /a/B: give one"):
        Handlers(unary={"/a/B": _unary}) | Handlers(stream={"/a/B": _stream})


def test_the_fast_wire_loads_neither_grpcio_nor_protobuf() -> None:
    script = (
        "import sys\n"
        "from anabranch.wire.choice import WireKind, new_wire\n"
        "new_wire(WireKind.NGH2)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'grpc', 'google', 'numpy', 'torch'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
