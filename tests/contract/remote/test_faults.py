"""A remote variant against a server that misbehaves in every way."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.variants.batching import Failure, FailureKind, QueueFull
from anabranch.variants.errors import VariantError
from anabranch.variants.manifest import Manifest, describe_files, load_manifest, save_manifest
from anabranch.variants.recipes import Engine
from anabranch.variants.remote_add import add_remote
from anabranch.variants.remote_answer import RemoteAnswer
from anabranch.variants.remote_check import NotServed, RemoteProblem
from anabranch.variants.remote_target import RemoteTarget, RemoteTls
from anabranch.wire.seam import Status

Use = Callable[..., Any]
Fake = Any
Client = Any
Until = Callable[[Callable[[], object]], Awaitable[None]]


def failing(code: grpc.StatusCode, text: str = "because") -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def infer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(code, text)
        raise AssertionError

    return infer


def test_a_request_goes_as_it_came_under_the_servers_names(
    use: Use, fake: Fake, request_bytes: bytes
) -> None:
    async def work(client: Client) -> Any:
        metadata = [("x-user-id", "ada"), ("x-raw-bin", b"\0\xff")]
        return await client.ask(request_bytes, metadata=metadata)

    answer = use(work)
    assert isinstance(answer, RemoteAnswer)
    assert answer.outputs["y"].tolist() == [[0.0, 1.0, 0.0]]
    assert answer.timing.compute_s > 0.0
    ((sent, metadata, left),) = fake.seen
    assert sent.startswith(request_bytes)
    expected = pb.ModelInferRequest.FromString(request_bytes)
    expected.model_name, expected.model_version = "theirs", "3"
    assert pb.ModelInferRequest.FromString(sent) == expected
    assert (metadata["x-user-id"], metadata["x-raw-bin"]) == ("ada", b"\0\xff")
    assert left is None or left > 1e6


def test_without_a_version_the_server_chooses(use: Use, fake: Fake, request_bytes: bytes) -> None:
    use(lambda client: client.ask(request_bytes), model_version="")
    assert pb.ModelInferRequest.FromString(fake.seen[0][0]).model_version == ""


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INTERNAL, FailureKind.ERROR),
        (grpc.StatusCode.INVALID_ARGUMENT, FailureKind.ERROR),
        (grpc.StatusCode.NOT_FOUND, FailureKind.ERROR),
        (grpc.StatusCode.UNAVAILABLE, FailureKind.REMOVED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, FailureKind.SHED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, FailureKind.DEADLINE),
    ],
)
def test_the_servers_status_and_text_are_kept(
    use: Use, fake: Fake, request_bytes: bytes, code: grpc.StatusCode, kind: FailureKind
) -> None:
    fake.infer = failing(code, "it is what it is: 100 %")
    result = use(lambda client: client.ask(request_bytes))
    assert isinstance(result, Failure)
    assert (result.kind, result.status) == (kind, code.value[0])
    assert result.message == "variant away: it is what it is: 100 %"


def test_an_answer_that_is_none_is_found_out_when_somebody_looks(
    use: Use, fake: Fake, request_bytes: bytes
) -> None:
    fake.infer = lambda _request, _context: b"\xff\xff\xff"
    answer = use(lambda client: client.ask(request_bytes))
    with pytest.raises(ValueError, match=r"field|message"):
        answer.outputs  # noqa: B018  # reading it raises


def test_deadlines_go_along_and_end_the_call(use: Use, fake: Fake, request_bytes: bytes) -> None:
    released = threading.Event()

    def hang(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(fake.cancelled.set)
        released.wait(20)
        return b""

    fake.infer = hang

    async def work(client: Client) -> Any:
        now = asyncio.get_running_loop().time()
        result = await client.ask(request_bytes, deadline=now + 0.3)
        assert client.variant.in_flight == 0
        return result

    try:
        result = use(work)
    finally:
        released.set()
    assert (result.kind, result.status) == (FailureKind.DEADLINE, Status.DEADLINE_EXCEEDED)
    assert 0.0 < fake.seen[0][2] <= 0.3
    assert fake.cancelled.wait(10)


def test_a_cancelled_request_is_cancelled_there_and_frees_its_place(
    use: Use, fake: Fake, request_bytes: bytes, wait_until: Until
) -> None:
    released = threading.Event()

    def hang(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(fake.cancelled.set)
        released.wait(20)
        return b""

    fake.infer = hang

    async def work(client: Client) -> None:
        call, ended = client.send(request_bytes)
        await wait_until(lambda: fake.seen)
        call.cancel()
        call.cancel()
        assert client.variant.in_flight == 0
        await wait_until(fake.cancelled.is_set)
        assert not ended.done()

    try:
        use(work)
    finally:
        released.set()


def test_requests_in_flight_are_bounded_and_copies_get_half(
    use: Use, fake: Fake, request_bytes: bytes
) -> None:
    released = threading.Event()

    def hang(request: bytes, context: grpc.ServicerContext) -> bytes:
        released.wait(20)
        return b""

    fake.infer = hang

    async def work(client: Client) -> None:
        sent = [client.send(request_bytes, is_copy=True)[1] for _ in range(2)]
        with pytest.raises(QueueFull, match="max_requests is 4, of which copies get half: send less"):
            client.send(request_bytes, is_copy=True)
        sent += [client.send(request_bytes)[1] for _ in range(2)]
        with pytest.raises(QueueFull, match="4 requests are in flight, max_requests is 4: send less"):
            client.send(request_bytes)
        assert client.variant.refused == 2
        released.set()
        await asyncio.gather(*sent)
        await client.ask(request_bytes)

    use(work, max_requests=4)


def test_failures_in_a_row_eject_it_and_only_others_are_turned_away(
    use: Use, fake: Fake, request_bytes: bytes
) -> None:
    fake.infer = failing(grpc.StatusCode.INTERNAL)

    async def work(client: Client) -> None:
        for _ in range(5):
            assert client.variant.unfit() is None
            await client.ask(request_bytes)
        assert client.variant.unfit() == "it is ejected for another 30 s"
        assert client.variant.ejections == 1
        # Who has nobody else to ask is served all the same.
        assert (await client.ask(request_bytes)).status == Status.INTERNAL

    use(work)


def test_candidates_that_are_not_waited_for_count_as_failures(use: Use, request_bytes: bytes) -> None:
    async def work(client: Client) -> None:
        for _ in range(5):
            client.variant.late(2.0)
        assert client.variant.unfit() is not None

    use(work)


def test_readiness_is_watched(use: Use, fake: Fake, wait_until: Until) -> None:
    async def work(client: Client) -> None:
        assert client.variant.unfit() is None
        fake.ready = False
        await wait_until(lambda: client.variant.unfit() == "it says that 'theirs' is not ready")
        fake.ready = True
        await wait_until(lambda: client.variant.unfit() is None)

    use(work)


def test_a_server_without_readiness_is_asked_by_the_health_service(
    use: Use, fake: Fake, wait_until: Until
) -> None:
    fake.has_readiness = False

    async def work(client: Client) -> None:
        assert client.variant.unfit() is None
        fake.health = 2
        await wait_until(lambda: client.variant.unfit() == "its health service says it is not serving")

    use(work)


def test_a_server_that_is_gone_is_not_ready_and_is_found_when_it_is_back(
    use: Use, fake: Fake, request_bytes: bytes, wait_until: Until
) -> None:
    async def work(client: Client) -> None:
        await asyncio.to_thread(fake.stop)
        await wait_until(lambda: "UNAVAILABLE" in (client.variant.unfit() or ""))
        result = await client.ask(request_bytes)
        assert (result.kind, result.status) == (FailureKind.REMOVED, Status.UNAVAILABLE)
        fake.start()
        await wait_until(lambda: client.variant.unfit() is None)
        assert isinstance(await client.ask(request_bytes), RemoteAnswer)

    use(work)


def test_a_server_that_stays_away_is_logged_once(
    use: Use, fake: Fake, wait_until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """Also while the text of the failure changes: it has the time of the next attempt in it."""

    async def work(client: Client) -> None:
        await asyncio.to_thread(fake.stop)
        said = set()

        def changed() -> bool:
            said.add(client.variant.unfit())
            return sum("UNAVAILABLE" in (each or "") for each in said) >= 3

        await wait_until(changed)

    use(work)
    assert sum("is not ready: UNAVAILABLE" in each.message for each in caplog.records) == 1


def test_a_model_that_has_become_another_one_is_not_used(use: Use, fake: Fake, wait_until: Until) -> None:
    fake.metadata.outputs[0].shape[1] = 4

    async def work(client: Client) -> None:
        assert client.variant.unfit() == "output 'y' is FP32 [-1, 4] there, FP32 [-1, 3] here"
        fake.metadata.outputs[0].shape[1] = 3
        await wait_until(lambda: client.variant.unfit() is None)

    use(work)


def test_closing_ends_what_is_in_flight(
    use: Use, fake: Fake, request_bytes: bytes, wait_until: Until
) -> None:
    released = threading.Event()

    def hang(request: bytes, context: grpc.ServicerContext) -> bytes:
        released.wait(20)
        return b""

    fake.infer = hang

    async def work(client: Client) -> Any:
        _, ended = client.send(request_bytes)
        await wait_until(lambda: fake.seen)
        await client.variant.close()
        return await asyncio.wait_for(ended, 10)

    try:
        result = use(work)
    finally:
        released.set()
    assert (result.kind, result.status) == (FailureKind.REMOVED, Status.UNAVAILABLE)


def target(fake: Fake, **fields: Any) -> RemoteTarget:
    return RemoteTarget(target=f"127.0.0.1:{fake.port}", model="theirs", **fields)


def test_taking_in_writes_what_was_checked_and_when(fake: Fake, tmp_path: Path) -> None:
    made = asyncio.run(add_remote(tmp_path, "m", "away", target(fake)))
    assert made == load_manifest(tmp_path / "m" / "away")
    assert made.remote is not None
    assert made.remote.server == "fake 1"
    assert made.remote.checked_at.endswith("+00:00")
    assert [spec.name for spec in made.signatures[0].inputs] == ["x"]
    again = asyncio.run(add_remote(tmp_path, "m", "away", target(fake, connections=3)))
    assert again.remote is not None
    assert again.remote.connections == 3


def test_taking_in_refuses_other_tensors_than_the_models(fake: Fake, tmp_path: Path) -> None:
    asyncio.run(add_remote(tmp_path, "m", "away", target(fake)))
    fake.metadata.inputs[0].datatype = "FP64"
    fake.metadata.outputs[0].name = "z"
    with pytest.raises(RemoteProblem) as refused:
        asyncio.run(add_remote(tmp_path, "m", "other", target(fake)))
    assert str(refused.value) == (
        "the server's model is not that of m/away: input 'x' is FP64 [-1, 2] there, FP32 [-1, 2] here; "
        "output 'y' is missing there; output 'z' is not known here"
    )
    assert not (tmp_path / "m" / "other").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda fake: setattr(fake, "ready", False),
            "does not serve 'theirs': it says that 'theirs' is not ready",
        ),
        (lambda fake: fake.metadata.ClearField("inputs"), "names no inputs of 'theirs': declare them there"),
        (
            lambda fake: setattr(fake.metadata.inputs[0], "datatype", "BF16"),
            "has datatype 'BF16', must be one of",
        ),
        (lambda fake: fake.stop(), "does not serve 'theirs': UNAVAILABLE"),
    ],
)
def test_taking_in_says_what_is_wrong_and_leaves_nothing(
    fake: Fake, tmp_path: Path, change: Callable[[Fake], object], said: str
) -> None:
    change(fake)
    with pytest.raises(RemoteProblem, match=said):
        asyncio.run(add_remote(tmp_path, "m", "away", target(fake)))
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_is_not_there_is_named(fake: Fake, tmp_path: Path) -> None:
    fake.ready = False
    with pytest.raises(NotServed, match="does not serve version '7' of 'theirs': it says"):
        asyncio.run(add_remote(tmp_path, "m", "away", replace(target(fake), model_version="7")))


@pytest.mark.parametrize("where", ["http://127.0.0.1:9001", "triton:8001/v2"])
def test_a_url_is_no_target(where: str) -> None:
    with pytest.raises(VariantError, match="give HOST:PORT"):
        RemoteTarget(target=where, model="m").address  # noqa: B018


def test_a_built_variant_is_not_replaced(fake: Fake, manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "m" / "away"
    folder.mkdir(parents=True)
    (folder / "a.onnx").write_bytes(b"")
    built = replace(
        manifest, engine=Engine.ONNX, remote=None, artifact="a.onnx", files=describe_files(folder, ["a.onnx"])
    )
    save_manifest(built, folder)
    with pytest.raises(VariantError, match="was built here: choose another name"):
        asyncio.run(add_remote(tmp_path, "m", "away", target(fake)))


def test_the_authorities_are_kept_with_the_manifest_and_verified(fake: Fake, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("no certificate")
    with pytest.raises(VariantError, match="the files of TLS cannot be used"):
        asyncio.run(add_remote(tmp_path, "m", "away", target(fake, tls=RemoteTls()), ca=ca))
    with pytest.raises(VariantError, match="TLS is not asked for"):
        asyncio.run(add_remote(tmp_path, "m", "away", target(fake), ca=ca))


def test_a_request_for_another_shape_is_refused_before_it_is_sent(use: Use) -> None:
    async def work(client: Client) -> None:
        assert client.variant.check_inputs({"x": np.zeros((3, 2), np.float32)}) == 3
        with pytest.raises(VariantError, match="has shape"):
            client.variant.check_inputs({"x": np.zeros((3, 5), np.float32)})

    use(work)
