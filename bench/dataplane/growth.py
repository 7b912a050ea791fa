"""How the server grows: a second worker, 64 variants, 1000 experiments in the snapshot, and its memory over time."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.dataplane.load_plan import UNIT_HEADER
from bench.dataplane.measuring import measure
from bench.dataplane.messages import ENCODER, MLP, encoder_message, mlp_message
from bench.dataplane.models import (
    BASELINE,
    CANDIDATE,
    ENCODER_VARIANT,
    encoder_models,
    encoder_tokens,
    mlp_models,
)
from bench.dataplane.ours import anabranch, apply_document, experiment
from bench.dataplane.peers import OUR_VERSION, Peer, Running
from bench.dataplane.places import OUR_PYTHON
from bench.dataplane.processes import Tree, free_port, label, members, rss_mib
from bench.dataplane.records import Journal
from bench.dataplane.tiny import expected_answers
from bench.dataplane.turns import Case, in_turns, measure_cases

VARIANTS = 64
EXPERIMENTS = 1000
CASES = ("workers", "variants", "experiments")
MEMORY = "memory"
_SAMPLES = 12


def run(journal: Journal, reps: int, seconds: float) -> None:
    """Measure each small form beside its large one, in turns."""
    _workers(journal, reps, seconds)
    load = {"connections": 4, "streams": 8, "seconds": seconds}
    _compare("variants", (_variants(2), _variants(VARIANTS)), load, journal, reps)
    _compare("experiments", (_experiments(1), _experiments(EXPERIMENTS)), load, journal, reps)


def run_memory(journal: Journal, _reps: int, _seconds: float, *, minutes: float, rate: float) -> None:
    """Measure the memory of one server over time; once, as it takes long."""
    start = partial(
        anabranch, models=mlp_models(), model=MLP, documents=(experiment(MLP),), probe=mlp_message()
    )
    peer = Peer(f"memory, {minutes:g} min", start)
    in_turns("growth", (peer,), 1, journal, partial(_memory, journal, minutes, rate))


def _compare(what: str, peers: Sequence[Peer], load: dict[str, float], journal: Journal, reps: int) -> None:
    case = Case(name=what, message=mlp_message(), load=load)
    measured = measure_cases("growth", (case,), journal, expected=expected_answers(), unit_header=UNIT_HEADER)
    in_turns("growth", peers, reps, journal, measured)


def _workers(journal: Journal, reps: int, seconds: float) -> None:
    """One and two workers with the encoder, so that the generator's share of the two cores does not count."""
    message = encoder_message(encoder_tokens())
    load = {"connections": 16, "streams": 2, "seconds": seconds, "warm_up_s": 2.0}

    def measured(peer: Peer, running: Running, rep: int) -> None:
        result = measure(running, message, **load)
        journal.result("growth", "workers", peer.name, rep, version=running.version, load=load, result=result)

    peers = [
        Peer(
            f"{workers} worker{'s' if workers > 1 else ''}",
            partial(
                anabranch,
                models=encoder_models(),
                model=ENCODER,
                baseline=ENCODER_VARIANT,
                workers=workers,
                core=None,
            ),
        )
        for workers in (1, 2)
    ]
    in_turns("growth", peers, reps, journal, measured)


def _variants(count: int) -> Peer:
    candidates = [CANDIDATE, *(f"candidate-{number}" for number in range(2, count))][: count - 1]
    document = experiment(MLP, candidates=candidates)
    # The same 5 % leave the baseline however many share them: smaller batches are not what is asked about.
    document["spec"]["steps"][0] = {"setWeight": 5 / len(candidates)}
    start = partial(
        anabranch, models=mlp_models(count), model=MLP, documents=(document,), probe=mlp_message()
    )
    return Peer(f"{count} variants", start)


def _experiments(count: int) -> Peer:
    return Peer(f"{count} experiment{'s' if count > 1 else ''}", partial(_watched, extra=count - 1))


def _watched(work: Path, *, extra: int) -> Running:
    """A server whose snapshots hold so many experiments more."""
    port, state = free_port(), work / "state"
    state.mkdir()
    command = [
        OUR_PYTHON,
        "-m",
        "bench.dataplane.servers.watched_server",
        mlp_models(),
        state,
        str(port),
        str(extra),
    ]
    tree = Tree(command, log=work / "watched.log")
    tree.wait_until(lambda: "serving on 127.0.0.1" in tree.log_text(), "serve")
    apply_document(experiment(MLP), work, state)
    tree.wait_until(lambda: f'"{BASELINE}"' in tree.log_text(), "publish the experiment")
    return Running(tree=tree, port=port, version=OUR_VERSION)


def _memory(journal: Journal, minutes: float, rate: float, peer: Peer, running: Running, rep: int) -> None:
    """Load at a steady rate and look at the tree's memory a dozen times."""
    load = {"connections": 8, "rate": rate, "unit_header": UNIT_HEADER}
    samples = []
    begun = time.monotonic()
    for _ in range(_SAMPLES):
        result = measure(running, mlp_message(), warm_up_s=0.2, seconds=60 * minutes / _SAMPLES, **load)
        tree = members(running.tree.pid)
        samples.append(
            {
                "minute": round((time.monotonic() - begun) / 60, 2),
                "rss_mib": round(rss_mib(tree), 1),
                "answered": result.answered,
                "failed": result.failed,
                "statuses": result.statuses,
                "processes": {label(each): round(rss_mib([each]), 1) for each in tree},
                "cpu_us": result.cpu_us,
            }
        )
    journal.write("growth", MEMORY, peer.name, rep, version=running.version, load=load, samples=samples)
