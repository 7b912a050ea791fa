from collections.abc import Mapping

import numpy as np

from anabranch.bandit.simulate import Arm, World, run
from anabranch.bandit.spec import Experiment

# Every action of one run, as (tick, change, variant): recorded from the loop before it was split into files.
GOLDEN = """
0 phase
1 verdict onnx-fp16
1 verdict onnx-mixed
2 verdict onnx-int8-static-kl
2 removed onnx-int8-static-kl
3 verdict onnx-int8-dynamic
3 verdict onnx-fp16
4 verdict onnx-mixed
7 verdict onnx-int8-static
7 verdict onnx-int8-dynamic
12 verdict onnx-int8-static
12 step
12 step
12 weights
22 step
22 weights
26 verdict onnx-int8-dynamic
27 weights
28 verdict onnx-int8-dynamic
28 verdict onnx-int8-static
28 verdict onnx-mixed
29 verdict onnx-int8-static
31 verdict onnx-fp16
31 winner onnx-int8-static
31 step
31 phase
31 weights
35 step
35 weights
39 phase
""".strip().splitlines()


def test_a_seeded_run_takes_exactly_the_recorded_course(
    demo: Experiment, demo_arms: Mapping[str, Arm]
) -> None:
    world = World(arms=lambda _: demo_arms, requests_per_s=300.0)
    seen = [
        f"{number} {action.change} {action.variant}".strip()
        for number, result in enumerate(run(demo, world, np.random.default_rng(0)))
        if result.decision is not None
        for action in result.decision.actions
    ]
    assert seen == GOLDEN


def test_the_same_seed_gives_the_same_states(demo: Experiment, demo_arms: Mapping[str, Arm]) -> None:
    world = World(arms=lambda _: demo_arms, requests_per_s=300.0)
    first, second = (list(run(demo, world, np.random.default_rng(7), max_ticks=20)) for _ in range(2))
    assert first == second
