"""A real sentence encoder in the serving process with batching on, loaded at 50, 80 and 95 % of what each server can do.

Goodput is what was answered within 50 ms of the time it was due, a second.
"""

import json
import subprocess
from functools import partial
from pathlib import Path

import onnxruntime

from bench.dataplane.measuring import check_answer, measure
from bench.dataplane.messages import ENCODER, Array, encoder_message
from bench.dataplane.model_servers import MAX_BATCH, mlserver, pytriton
from bench.dataplane.models import ENCODER_VARIANT, encoder_file, encoder_models, encoder_tokens
from bench.dataplane.ours import anabranch
from bench.dataplane.peers import Peer, Running
from bench.dataplane.places import OUR_PYTHON, REPOSITORY
from bench.dataplane.processes import SERVER_CORE
from bench.dataplane.records import Journal
from bench.dataplane.turns import in_turns

SHARES = (0.5, 0.8, 0.95)
SATURATION = "saturation"
ALONE = "the model alone"
_IN_FLIGHT = 32
_MLSERVER_BATCH_S = 0.005
_WINDOWS = 3
"""It answers hundreds a second where others answer thousands: its windows are as many times longer."""


def run(journal: Journal, reps: int, seconds: float) -> None:
    """Find each server's saturation with 32 requests in flight, then offer it shares of that at Poisson times."""
    file = encoder_file()
    message = encoder_message(encoder_tokens())
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    answer: Array = session.run([session.get_outputs()[0].name], dict(message.inputs))[0]

    def measured(peer: Peer, running: Running, rep: int) -> None:
        check_answer(running, message, answer, {})
        spread = {
            "connections": 4,
            "streams": _IN_FLIGHT // 4,
            "warm_up_s": 2.0,
            "seconds": _WINDOWS * seconds,
        }
        full = measure(running, message, **spread)
        journal.result(
            "encoder", SATURATION, peer.name, rep, version=running.version, load=spread, result=full
        )
        for share in SHARES:
            load = {
                "connections": 8,
                "rate": share * full.rps,
                "warm_up_s": 1.0,
                "seconds": _WINDOWS * seconds,
                "seed": rep + 1,
            }
            result = measure(running, message, **load)
            journal.result(
                "encoder", f"{share:.0%}", peer.name, rep, version=running.version, load=load, result=result
            )

    peers = (
        Peer("Triton (PyTriton)", partial(pytriton, model=ENCODER, file=file)),
        Peer("MLServer", partial(mlserver, model=ENCODER, file=file, batch_s=_MLSERVER_BATCH_S)),
        Peer(
            "Anabranch", partial(anabranch, models=encoder_models(), model=ENCODER, baseline=ENCODER_VARIANT)
        ),
    )
    in_turns("encoder", peers, reps, journal, measured)
    for rep in range(reps):
        journal.write("encoder", SATURATION, ALONE, rep, version="onnxruntime", **_model_alone(file))


def _model_alone(file: Path) -> dict[str, float]:
    """Rows a second of the bare session on the servers' core: what no server can beat."""
    done = subprocess.run(
        [
            "taskset",
            "--cpu-list",
            str(SERVER_CORE),
            OUR_PYTHON,
            "-m",
            "bench.dataplane.servers.model_alone",
            file,
        ],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
        input=json.dumps({"batches": [1, MAX_BATCH], "seconds": 2.0}),
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found
