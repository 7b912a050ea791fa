"""A tiny ONNX model in the serving process: what the serving stacks themselves cost."""

from collections.abc import Callable
from functools import partial

import onnxruntime

from bench.dataplane.load_plan import UNIT_HEADER
from bench.dataplane.messages import IDENTITY, MLP, Array, Message, mlp_message
from bench.dataplane.model_servers import model_servers
from bench.dataplane.models import mlp_file, mlp_models
from bench.dataplane.ours import anabranch, experiment
from bench.dataplane.peers import Peer, Running
from bench.dataplane.proxies import direct
from bench.dataplane.records import Journal
from bench.dataplane.turns import Case, in_turns, measure_cases

OURS = "Anabranch"
WITH_EXPERIMENT = "Anabranch, with experiment"
DIRECT = "C echo, no model"
CASES = ("1 in flight", "32 in flight")


def run(journal: Journal, reps: int, seconds: float) -> None:
    """Measure every peer with 1 and with 32 requests in flight."""
    message = mlp_message()
    expected = expected_answers()

    def measured(peer: Peer, running: Running, rep: int) -> None:
        # HTTP/1.1 has one request at a time on a connection.
        spread = (
            {"connections": 4, "streams": 8}
            if running.dialect == "grpc"
            else {"connections": 32, "streams": 1}
        )
        cases = (
            Case(name=CASES[0], message=message, load={"connections": 1, "streams": 1}),
            Case(name=CASES[1], message=message, load=spread),
        )
        measure_cases("tiny", cases, journal, expected=expected, unit_header=UNIT_HEADER, seconds=seconds)(
            peer, running, rep
        )

    in_turns(
        "tiny",
        (*model_servers(MLP, mlp_file()), *our_peers(message), Peer(DIRECT, direct)),
        reps,
        journal,
        measured,
    )


def expected_answers() -> Callable[[Peer, Message], Array]:
    """What each peer must answer: the network's output, or the input itself where there is no network."""
    session = onnxruntime.InferenceSession(str(mlp_file()), providers=["CPUExecutionProvider"])

    def expected(peer: Peer, message: Message) -> Array:
        if message.model == IDENTITY or peer.name == DIRECT:
            return message.inputs["x"]
        answer: Array = session.run(None, dict(message.inputs))[0]
        return answer

    return expected


def our_peers(message: Message) -> tuple[Peer, ...]:
    """The project's server as a bare forwarder, and with an experiment: assignment, journal and controller at work."""
    models = mlp_models()
    return (
        Peer(OURS, partial(anabranch, models=models, model=MLP)),
        Peer(
            WITH_EXPERIMENT,
            partial(anabranch, models=models, model=MLP, documents=(experiment(MLP),), probe=message),
        ),
    )
