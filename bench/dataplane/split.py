"""A weighted, sticky split to remote backends: Envoy, nginx, HAProxy, a grpc.aio proxy, and `anabranch serve`."""

from pathlib import Path

from bench.dataplane.load_plan import UNIT_HEADER
from bench.dataplane.messages import IDENTITY, LARGE_FLOATS, Array, Message, identity_message
from bench.dataplane.ours_remote import anabranch_split, envoy_split
from bench.dataplane.peers import Peer, Running
from bench.dataplane.proxies import PROXIES
from bench.dataplane.records import Journal
from bench.dataplane.turns import Case, in_turns, measure_cases

OURS = "Anabranch"
PLAIN = "Anabranch, no experiment"
MESH = "Anabranch over Envoy"
CLOSED: dict[str, dict[str, float]] = {
    "small 4×16": {"connections": 4, "streams": 16},
    "small 32×1": {"connections": 32, "streams": 1},
    "small 1×1": {"connections": 1, "streams": 1},
    "64 KiB 4×4": {"connections": 4, "streams": 4},
}
OPEN: dict[str, dict[str, float]] = {
    "small 1000/s": {"connections": 8, "rate": 1000.0},
    "small 4000/s": {"connections": 8, "rate": 4000.0},
}


def run(journal: Journal, reps: int, seconds: float) -> None:
    """Measure all of them: closed loop for CPU and p50, open loop for p99."""
    small, large = identity_message(16), identity_message(LARGE_FLOATS)
    loads = {**CLOSED, **OPEN}
    cases = [
        Case(name=name, message=large if name.startswith("64 KiB") else small, load=load)
        for name, load in loads.items()
    ]
    peers = (*PROXIES, Peer(OURS, anabranch_split), Peer(PLAIN, _plain), Peer(MESH, envoy_split))
    measured = measure_cases(
        "split", cases, journal, expected=_expected, unit_header=UNIT_HEADER, seconds=seconds
    )
    in_turns("split", peers, reps, journal, measured)


def _plain(work: Path) -> Running:
    return anabranch_split(work, has_experiment=False)


def _expected(_peer: Peer, message: Message) -> Array:
    assert message.model == IDENTITY
    return message.inputs["x"]
