"""Record the states that the display tests show: `python tests/unit/cli/states/record.py`.

They are recorded, not simulated by the tests, so that a better test statistic does not change every picture.
What no display reads (running tests, verdicts inside decisions) is left out.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from anabranch.bandit.decision import Decision
from anabranch.bandit.simulate import Arm, World, run
from anabranch.bandit.state import ExperimentState
from anabranch.store import codec
from anabranch.store.document import parse, read_document

HERE = Path(__file__).parent
# Name of the state and the tick after which it is taken; the last is where the experiment ends.
MOMENTS = {"mirroring": 12, "bandit": 140, "promoted": 10_000}
WORLD = {
    "onnx-fp32": Arm(median_ms=6.2, error_rate=0.001),
    "onnx-int8-dynamic": Arm(median_ms=3.0, error_rate=0.001, agreement=0.98, accuracy=0.898),
    "onnx-mixed": Arm(median_ms=3.4, error_rate=0.002, agreement=0.975, accuracy=0.9),
    "onnx-int8-static-kl": Arm(median_ms=3.1, error_rate=0.001, agreement=0.88, accuracy=0.85),
}


def record() -> None:
    """Write one file a moment."""
    experiment = parse(read_document((HERE / "minilm.yaml").read_text(encoding="utf-8")))
    for name, last in MOMENTS.items():
        world = World(arms=lambda _: WORLD, requests_per_s=150)
        decisions: list[Decision] = []
        state = ExperimentState()
        for number, result in enumerate(run(experiment, world, np.random.default_rng(7))):
            state = result.state
            decisions += [result.decision] if result.decision else []
            if number == last:
                break
        kept = {
            "state": json.loads(codec.state_text(replace(state, tests={}))),
            "decisions": [
                json.loads(codec.decision_text(replace(decision, verdicts=()))) for decision in decisions
            ],
        }
        (HERE / f"{name}.json").write_text(json.dumps(kept, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
