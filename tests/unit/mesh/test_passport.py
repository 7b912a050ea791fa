"""Who may be an Envoy, and how it is told."""

import stat
from pathlib import Path
from typing import Any, cast

import pytest

from anabranch.mesh import resources
from anabranch.mesh.encode import LISTENER_TYPE, pack
from anabranch.mesh.passport import HEADER, guarded, passport, write_private
from anabranch.mesh.routes import CALLER, caller_of
from anabranch.proto import envoy_pb2 as pb
from anabranch.wire.seam import Call, Handlers, Metadata, Status, StreamCall

SECRET = passport(bytes(32))


class Stream:
    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.peer = "127.0.0.1:4711"
        self.ended: Status | None = None

    def finish(self, status: Status, _message: str) -> None:
        self.ended = status


def open_stream(metadata: Metadata) -> tuple[Stream, list[Any], list[str]]:
    """Open a guarded stream: the stream, what its handler got, and what was refused."""
    got: list[Any] = []
    refused: list[str] = []
    stream = Stream(metadata)
    guarded(Handlers(stream={"/s": got.append}), SECRET, refused.append).stream["/s"](
        cast(StreamCall, stream)
    )
    return stream, got, refused


def test_a_stream_that_begins_with_the_secret_is_served() -> None:
    stream, got, refused = open_stream([("other", "x"), (HEADER, SECRET)])
    assert got == [stream]
    assert stream.ended is None
    assert refused == []


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [(HEADER, "")],
        [(HEADER, SECRET[:-1])],
        [(HEADER, SECRET.upper())],
        [(HEADER, "x"), (HEADER, SECRET)],
    ],
)
def test_any_other_stream_is_refused_and_told_of(metadata: Metadata) -> None:
    stream, got, refused = open_stream(metadata)
    assert got == []
    assert stream.ended is Status.UNAUTHENTICATED
    assert refused == ["/s"]


def test_keys_have_secrets_of_their_own_that_do_not_hold_them() -> None:
    key = bytes(range(32))
    assert passport(key) != SECRET
    assert key.hex() not in passport(key)


def test_both_services_of_envoy_begin_with_the_secret() -> None:
    start = resources.bootstrap(control_host="h", control_port=1, secret=SECRET, admin=Path("a"))
    [asks] = start["dynamic_resources"]["ads_config"]["grpc_services"]
    assert asks["initial_metadata"] == [{"key": HEADER, "value": SECRET}]
    made = resources.listener(
        host="127.0.0.1", port=1, key_file=Path("k"), secret=SECRET, max_message_bytes=1000, tls=None
    )
    listener = pb.Listener.FromString(pack(LISTENER_TYPE, made).value)
    manager = pb.HttpConnectionManager.FromString(listener.filter_chains[0].filters[0].typed_config.value)
    log = pb.HttpGrpcAccessLogConfig.FromString(manager.access_log[0].typed_config.value)
    [told] = log.common_config.grpc_service.initial_metadata
    assert (told.key, told.value) == (HEADER, SECRET)


def test_the_bootstrap_is_for_this_user_alone_also_where_it_was_not(tmp_path: Path) -> None:
    path = tmp_path / "envoy.json"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_feedback_is_counted_to_the_client_that_envoy_names() -> None:
    assert caller_of(cast(Call, Stream([(CALLER, "10.0.0.9")]))) == "10.0.0.9"
    assert caller_of(cast(Call, Stream([]))) == "127.0.0.1"
    # Envoy overwrites; two are nobody's.
    assert caller_of(cast(Call, Stream([(CALLER, "a"), (CALLER, "b")]))) == "127.0.0.1"
