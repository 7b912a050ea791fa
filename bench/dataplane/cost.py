"""What the experiment costs: assignment, journal, controller and metrics at work, against the same server without one."""

from functools import partial

from bench.dataplane.load_plan import UNIT_HEADER
from bench.dataplane.messages import Message, identity_message, mlp_message
from bench.dataplane.ours_remote import anabranch_split
from bench.dataplane.peers import Peer
from bench.dataplane.records import Journal
from bench.dataplane.tiny import OURS, WITH_EXPERIMENT, expected_answers, our_peers
from bench.dataplane.turns import Case, in_turns, measure_cases

WITHOUT, WITH = OURS, WITH_EXPERIMENT
_SPREADS = ((4, 16),)
CASES = tuple(
    f"{where} {connections}×{streams}"
    for where in ("model in process", "remote variants")
    for connections, streams in _SPREADS
)


def run(journal: Journal, reps: int, seconds: float) -> None:
    """Measure both in turns: with a model in the process, and with remote variants."""
    mlp, identity = mlp_message(), identity_message(16)
    _pair("model in process", our_peers(mlp), mlp, journal, reps, seconds)
    remote = (
        Peer(WITHOUT, partial(anabranch_split, has_experiment=False)),
        Peer(WITH, anabranch_split),
    )
    _pair("remote variants", remote, identity, journal, reps, seconds)


def _pair(
    where: str, peers: tuple[Peer, ...], message: Message, journal: Journal, reps: int, seconds: float
) -> None:
    cases = [
        Case(
            name=f"{where} {connections}×{streams}",
            message=message,
            load={"connections": connections, "streams": streams},
        )
        for connections, streams in _SPREADS
    ]
    measured = measure_cases(
        "cost", cases, journal, expected=expected_answers(), unit_header=UNIT_HEADER, seconds=seconds
    )
    in_turns("cost", peers, reps, journal, measured)
