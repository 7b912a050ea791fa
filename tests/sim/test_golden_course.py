from collections.abc import Mapping

import numpy as np

from anabranch.bandit.decision import Change
from anabranch.bandit.simulate import Arm, World, run
from anabranch.bandit.spec import Experiment

# The course of one run, as (change, variant). When the tests' evidence grows at another pace, the ticks and the
# weights in between differ; this course does not.
GOLDEN = """
phase
mirror
removed onnx-int8-static-kl
step
step
mirror
step
winner onnx-int8-static
step
phase
step
phase
""".strip().splitlines()


def test_a_seeded_run_takes_the_recorded_course(demo: Experiment, demo_arms: Mapping[str, Arm]) -> None:
    world = World(arms=lambda _: demo_arms, requests_per_s=300.0)
    seen = [
        f"{action.change} {action.variant}".strip()
        for result in run(demo, world, np.random.default_rng(0))
        if result.decision is not None
        for action in result.decision.actions
        if action.change not in (Change.VERDICT, Change.WEIGHTS)
    ]
    assert seen == GOLDEN


def test_the_same_seed_gives_the_same_states(demo: Experiment, demo_arms: Mapping[str, Arm]) -> None:
    world = World(arms=lambda _: demo_arms, requests_per_s=300.0)
    first, second = (list(run(demo, world, np.random.default_rng(7), max_ticks=20)) for _ in range(2))
    assert first == second
