"""From an experiment's saved state to the route that its model is served by."""

from __future__ import annotations

from anabranch.bandit.assignment import lay_out
from anabranch.bandit.measures import feedback_scales
from anabranch.bandit.scales import GridScale
from anabranch.bandit.snapshot import FeedbackRule, MirrorPlan, Route
from anabranch.bandit.spec import Experiment, MirrorStep
from anabranch.bandit.state import ExperimentState


def plain_route(model: str, baseline: str) -> Route:
    """All traffic of a model without an experiment goes to its baseline."""
    return Route(model=model, arms=(baseline,), layout=lay_out([]))


def route_of(experiment: Experiment, state: ExperimentState, identifier: int, salt: str) -> Route:
    """The route of a model whose experiment is going on.

    Args:
        experiment: What was asked for.
        state: What was saved last: shown, logged and used weights are the same.
        identifier: The experiment's number in journal records.
        salt: Key of the unit hash.
    """
    weights = [state.weights.get(candidate, 0.0) for candidate in experiment.candidates]
    feedback = {
        name: FeedbackRule(low=scale.low, high=scale.high, is_graded=isinstance(scale, GridScale))
        for name, scale in feedback_scales(experiment).items()
    }
    return Route(
        model=experiment.model,
        arms=experiment.arms,
        layout=lay_out(weights),
        experiment=experiment.name,
        experiment_id=identifier,
        epoch=state.epoch,
        salt=salt,
        unit_metadata=experiment.unit_metadata,
        mirror=_mirror(experiment, state),
        feedback=feedback,
    )


def _mirror(experiment: Experiment, state: ExperimentState) -> MirrorPlan | None:
    if state.mirror <= 0.0 or not state.live:
        return None
    asked = [step for step in experiment.steps[: state.step + 1] if isinstance(step, MirrorStep)]
    return MirrorPlan(
        fraction=state.mirror,
        arms=tuple(experiment.arms.index(candidate) for candidate in state.live),
        noise_floor=asked[-1].noise_floor if asked else 0.0,
    )
