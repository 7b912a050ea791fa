"""From a weight change to its effect, under load, six flips of all the traffic: `anabranch serve`, and Envoy with xDS.

The clock starts when the control plane sends: Anabranch's controller when it publishes the snapshot of a decision it has
saved, Envoy's when it writes the new routes. The effect is there with the first request after the last one that was still
routed the old way; the requests' distance in time is part of the figure.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from bench.dataplane.environments import PINNED
from bench.dataplane.envoy_config import envoy_config
from bench.dataplane.load_plan import UNIT_HEADER
from bench.dataplane.measuring import MeasurementFailed, check_answer, measure
from bench.dataplane.messages import MLP, identity_message, mlp_message
from bench.dataplane.models import mlp_models
from bench.dataplane.ours import apply_document, experiment
from bench.dataplane.peers import OUR_VERSION, Peer, Running
from bench.dataplane.places import OUR_PYTHON, SERVERS, environment, peer_python
from bench.dataplane.processes import LOAD_CORE, Tree, free_port
from bench.dataplane.proxies import identity_server, require
from bench.dataplane.records import Journal
from bench.dataplane.turns import in_turns

FLIPS = 6
CASE = f"{FLIPS} flips"
RATE = 1500.0
"""Requests a second: one every two thirds of a millisecond, well below what either server can do."""

_PERIOD_S = 0.7
_BEFORE_S = 3.0
# A request that was sent this long before a flip may still be routed after it.
_OVERLAP_S = 0.05
OURS = "Anabranch"


def run(journal: Journal, reps: int, _seconds: float) -> None:
    """Flip, and look at every single request."""

    def measured(peer: Peer, running: Running, rep: int) -> None:
        message = mlp_message() if peer.name == OURS else identity_message(16)
        load = {
            "connections": 4,
            "rate": RATE,
            "unit_header": UNIT_HEADER,
            "keeps_timeline": True,
            "seed": rep + 1,
        }
        result = measure(running, message, warm_up_s=0.5, seconds=_BEFORE_S + _PERIOD_S * (FLIPS + 2), **load)
        control = running.helpers[0] if running.helpers else running.tree
        effects = flip_effects(_pushes(control), result.timeline)
        if len(effects) < FLIPS:
            raise MeasurementFailed(
                f"{len(effects)} flips seen, {FLIPS} expected: {control.log_text()[-500:]}"
            )
        journal.write(
            "weights",
            CASE,
            peer.name,
            rep,
            version=running.version,
            load=load,
            effect_ms=[round(1e3 * effect, 3) for effect in effects],
            effect_p50_ms=round(1e3 * median(effects), 3),
            effect_max_ms=round(1e3 * max(effects), 3),
            failed=result.failed,
            statuses=result.statuses,
            answered=result.answered,
            cpu_us=result.cpu_us,
        )

    in_turns("weights", (Peer(OURS, _watched), Peer("Envoy, xDS", _envoy)), reps, journal, measured)


def flip_effects(pushes: Sequence[tuple[float, str]], timeline: Sequence[tuple[float, str]]) -> list[float]:
    """By flip, the seconds from the push to the first request after the last one that was routed the old way.

    Args:
        pushes: Monotonic time and the variant that gets all traffic from then on.
        timeline: Of every answered request, when it was sent and the variant that answered.
    """
    first, last = min(stamp for stamp, _ in timeline), max(stamp for stamp, _ in timeline)
    found = []
    ends = [at for at, _ in pushes[2:]] + [last]
    for ((_, before), (at, variant)), until in zip(pairwise(pushes), ends, strict=True):
        if variant == before or not first + _OVERLAP_S < at < last - _OVERLAP_S:
            continue
        old = [
            stamp for stamp, by in timeline if by != variant and at - _OVERLAP_S <= stamp < until - _OVERLAP_S
        ]
        new = [stamp for stamp, by in timeline if by == variant and at <= stamp < until - _OVERLAP_S]
        if not new:
            raise MeasurementFailed(f"no request went to {variant} after the push")
        settled = max(at, max(old, default=at))
        found.append(min((stamp for stamp in new if stamp >= settled), default=until) - at)
    return found


def _pushes(control: Tree) -> list[tuple[float, str]]:
    lines = [json.loads(line) for line in control.log_text().splitlines() if line.startswith('{"pushed_at"')]
    found = [(line["pushed_at"], line["variant"]) for line in lines]
    # A snapshot that changes something else repeats the heaviest variant.
    return found[:1] + [new for old, new in pairwise(found) if new[1] != old[1]]


def _watched(work: Path) -> Running:
    port, state = free_port(), work / "state"
    state.mkdir()
    models = mlp_models()
    command = [OUR_PYTHON, "-m", "bench.dataplane.servers.watched_server", models, state, str(port), "0"]
    tree = Tree(command, log=work / "watched.log")
    running = Running(tree=tree, port=port, version=OUR_VERSION)
    tree.wait_until(lambda: "serving on 127.0.0.1" in tree.log_text(), "serve")
    document = experiment(MLP)
    document["spec"]["steps"] = [
        {"setWeight": 0},
        {"pause": {"duration": f"{_BEFORE_S:g}s"}},
        *(
            step
            for flip in range(FLIPS)
            for step in ({"setWeight": 0 if flip % 2 else 100}, {"pause": {"duration": f"{_PERIOD_S:g}s"}})
        ),
        {"pause": {"duration": "1h"}},
    ]
    apply_document(document, work, state)
    return running


def _envoy(work: Path) -> Running:
    require("envoy")
    require("xds")
    control_port, port = free_port(), free_port()
    control = Tree(
        [peer_python("xds"), SERVERS / "xds_control.py", str(control_port), str(FLIPS), str(_PERIOD_S)],
        log=work / "xds.log",
        core=LOAD_CORE,
    )
    control.wait_until_listening(control_port)
    (a, port_a), (b, port_b) = (identity_server(work, name, LOAD_CORE) for name in "ab")
    config = work / "envoy.json"
    config.write_text(json.dumps(envoy_config(port, (port_a, port_b), control_port=control_port)))
    flags = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    tree = Tree([environment("envoy") / "bin" / "envoy", "-c", config, *flags], log=work / "envoy.log")
    helpers = (control, a, b)
    version = f"{PINNED['envoy'].requirements[0]}, {PINNED['xds'].requirements[0]}"
    running = Running(tree=tree, port=port, version=version, helpers=helpers)
    try:
        tree.wait_until_listening(port)
        message = identity_message(16)
        check_answer(running, message, message.inputs["x"], {UNIT_HEADER: "user-1"})
    except BaseException:
        running.stop()
        raise
    return running
