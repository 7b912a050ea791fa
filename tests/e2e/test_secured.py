"""A server that others reach: nobody is served who is not known, on either port, and nothing secret is left lying about."""

import os
import re
import secrets
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import psutil
import pytest

from anabranch.client import errors
from anabranch.client.feedback import Outcome, assignment_of
from anabranch.client.sync import Client
from anabranch.client.target import Credentials
from anabranch.proto import feedback_pb2
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import encode_inputs
from anabranch.store.access import Role
from anabranch.store.sql import open_store
from anabranch.store.tokens import issue

TLS = Path(__file__).parents[1] / "contract" / "wire" / "tls"
CA = TLS / "ca.pem"
OIP = "/inference.GRPCInferenceService/"
DOCUMENT = {
    "apiVersion": "anabranch/v1",
    "kind": "Experiment",
    "metadata": {"name": "secured"},
    "spec": {
        "model": "digits",
        "baseline": "wide",
        "candidates": ["plain"],
        "metrics": [
            {
                "name": "accuracy",
                "source": "feedback.correct",
                "role": "guardrail",
                "nonInferiorityMargin": 0.2,
            }
        ],
        "steps": [{"setWeight": 50}, {"analysis": {}}],
    },
}


class World:
    """A secured server, and tokens for everybody."""

    def __init__(self, served: Any, tokens: dict[str, str], digits: Any) -> None:
        self.served = served
        self.tokens = tokens
        self.digits = digits
        self.address = f"127.0.0.1:{served.address.rpartition(':')[2]}"
        self.control = f"grpcs://127.0.0.1:{served.control.rpartition(':')[2]}"
        self.channel = grpc.secure_channel(self.address, grpc.ssl_channel_credentials(CA.read_bytes()))

    def call(self, method: str, request: Any, response: Any, who: str | None) -> Any:
        """One call on the inference port, and its initial metadata."""
        stub: Any = self.channel.unary_unary(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        metadata = [] if who is None else [("authorization", f"Bearer {self.tokens[who]}")]
        return stub(request, timeout=30, metadata=metadata)

    def infer(self, who: str | None, model: str = "digits") -> Any:
        request = pb.ModelInferRequest(model_name=model)
        encode_inputs(request, {"pixels": self.digits.test_pixels[:1]})
        return self.call(f"{OIP}ModelInfer", request, pb.ModelInferResponse, who)

    def code(self, method: Any, *arguments: Any) -> grpc.StatusCode:
        try:
            method(*arguments)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def client(self, who: str) -> Client:
        return Client(self.control, Credentials(token=self.tokens[who], ca_file=CA))


@pytest.fixture(scope="module")
def world(
    models: Path, digits: Any, clients: ModuleType, load_module: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    state = tmp_path_factory.mktemp("secured")
    store = open_store(f"sqlite:///{state / 'anabranch.db'}")
    tokens = {}
    for name, role, of in (
        ("viewer", Role.VIEWER, []),
        ("client", Role.FEEDBACK, []),
        ("elsewhere", Role.FEEDBACK, ["another"]),
        ("operator", Role.OPERATOR, ["digits"]),
    ):
        kept, tokens[name] = issue(
            name=name,
            role=role,
            models=of,
            now=time.time(),
            expires_s=time.time() + 3600,
            created_by="ada",
            entropy=secrets.token_bytes,
        )
        store.access.save_token(kept, verb="token create", actor="ada", now=time.time())
    store.close()
    conftest = load_module(Path(__file__).with_name("conftest.py"))
    served = conftest.Served(
        models,
        state,
        digits,
        clients,
        host="0.0.0.0",
        **{
            "control-host": "0.0.0.0",
            "control-port": 0,
            "metrics-port": 0,
            "tls-cert": TLS / "server.pem",
            "tls-key": TLS / "server.key",
        },
    )
    yield World(served, tokens, digits)
    assert served.stop() == 0


def test_a_model_answers_only_who_may_ask_it(world: World) -> None:
    assert world.code(world.infer, "client") is grpc.StatusCode.OK
    assert world.code(world.infer, "operator") is grpc.StatusCode.OK
    assert world.code(world.infer, None) is grpc.StatusCode.UNAUTHENTICATED
    assert world.code(world.infer, "viewer") is grpc.StatusCode.PERMISSION_DENIED
    assert world.code(world.infer, "elsewhere") is grpc.StatusCode.PERMISSION_DENIED
    # Not even whether there is such a model is told.
    assert world.code(world.infer, "elsewhere", "nothing") is grpc.StatusCode.PERMISSION_DENIED
    assert world.code(world.infer, "elsewhere", "digits/wide") is grpc.StatusCode.PERMISSION_DENIED


def test_a_probe_needs_no_token(world: World) -> None:
    live = world.call(f"{OIP}ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse, None)
    assert live.live


def test_a_stream_lets_only_messages_about_ones_own_models_pass(world: World) -> None:
    stub: Any = world.channel.stream_stream(
        f"{OIP}ModelStreamInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    request = pb.ModelInferRequest(model_name="digits")
    encode_inputs(request, {"pixels": world.digits.test_pixels[:1]})
    for who, expected in (("operator", None), ("elsewhere", grpc.StatusCode.PERMISSION_DENIED)):
        metadata = [("authorization", f"Bearer {world.tokens[who]}")]
        answers = stub(iter([request]), timeout=30, metadata=metadata)
        if expected is None:
            assert [answer.error_message for answer in answers] == [""]
            continue
        with pytest.raises(grpc.RpcError) as raised:
            list(answers)
        assert raised.value.code() is expected


def test_an_experiment_is_run_from_afar_with_labels_by_the_control_port(world: World) -> None:
    with world.client("operator") as client:
        assert client.apply(DOCUMENT).outcome == "created"
        for experiment in client.watch("secured", timeout_s=60):
            if experiment.phase == "Progressing":
                break
        eventual = time.monotonic() + 60
        while not (assignment := assignment_of(world.infer("client"))) or assignment.id is None:
            assert time.monotonic() < eventual
        first = Outcome(assignment_id=assignment.id, correct=True)
        (accepted,) = client.feedback([first])
        assert accepted.accepted, accepted.problem
        forged = Outcome(assignment_id=assignment.id[:-2] + "AA", correct=True)
        (refused,) = client.feedback([forged])
        assert "was not given out" in refused.problem
        assert [variant.name for variant in client.variants() if variant.is_baseline] == ["wide"]
        decision = client.wait(client.abort("secured"))
        assert decision.phase == "Aborted"
        assert {event.actor for event in client.events("secured")} == {"token:operator"}
        assert client.verify("secured").matches


def test_feedback_takes_its_role_and_its_model(world: World) -> None:
    request = feedback_pb2.SubmitRequest(outcomes=[feedback_pb2.Outcome(assignment_id="x", correct=True)])
    submit = ("/anabranch.v1.FeedbackService/Submit", request, feedback_pb2.SubmitResponse)
    assert world.code(world.call, *submit, None) is grpc.StatusCode.UNAUTHENTICATED
    assert world.code(world.call, *submit, "viewer") is grpc.StatusCode.PERMISSION_DENIED
    assert not world.call(*submit, "client").results[0].accepted


def test_a_revoked_token_is_refused_by_workers_too(world: World) -> None:
    world.served.cli("token", "create", "short", "--role", "feedback", "--out", str(world.served.state / "t"))
    world.tokens["short"] = (world.served.state / "t").read_text().strip()
    give_up = time.monotonic() + 60
    while world.code(world.infer, "short") is not grpc.StatusCode.OK:
        assert time.monotonic() < give_up
    world.served.cli("token", "revoke", "short")
    while world.code(world.infer, "short") is not grpc.StatusCode.UNAUTHENTICATED:
        assert time.monotonic() < give_up


def test_a_viewer_sees_and_changes_nothing(world: World) -> None:
    with world.client("viewer") as client:
        client.experiments()
        with pytest.raises(errors.NotAllowed):
            client.apply(DOCUMENT)


def test_refused_calls_are_counted_by_port(world: World) -> None:
    assert world.code(world.infer, None) is grpc.StatusCode.UNAUTHENTICATED
    with (
        Client(world.control, Credentials(token="anabranch_x", ca_file=CA)) as client,
        pytest.raises(errors.NotKnown),
    ):
        client.who_am_i()
    wanted = [
        re.compile(rf'anabranch_access_refused_total{{port="{port}",status="unauthenticated"}} [1-9]')
        for port in ("inference", "control")
    ]
    give_up = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(world.served.metrics, timeout=30) as answer:
            text = answer.read().decode()
        if all(each.search(text) for each in wanted):
            break
        assert time.monotonic() < give_up


def test_no_secret_is_in_the_log_the_journal_the_database_or_the_process_table(world: World) -> None:
    secret = [token.split("_", 2)[2][:24] for token in world.tokens.values()]
    lines = [" ".join(process.cmdline()) for process in psutil.process_iter() if process.pid != os.getpid()]
    files = [path for path in world.served.state.rglob("*") if path.is_file() and path.name != "t"]
    assert any(path.name == "serve.log" for path in files)
    for part in secret:
        assert not any(part in line for line in lines)
        assert not any(part.encode() in path.read_bytes() for path in files)
