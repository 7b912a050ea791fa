"""From an experiment's saved state to the route that its model is served by."""

from __future__ import annotations

from collections.abc import Iterable

from anabranch.bandit.assignment import lay_out
from anabranch.bandit.fold import test_key
from anabranch.bandit.measures import feedback_scales
from anabranch.bandit.scales import GridScale
from anabranch.bandit.snapshot import FeedbackRule, MirrorPlan, Route
from anabranch.bandit.spec import Experiment, MirrorStep
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.verdicts import Outcome


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
    """Copies go only to candidates that still need them: a decided one would cost the others their turn."""
    asked = [step for step in experiment.steps[: state.step + 1] if isinstance(step, MirrorStep)]
    if state.mirror <= 0.0 or not asked:
        return None
    wanted = asked[-1].until_decided
    needing = [name for name in state.live if not wanted or not _all_pass(state, wanted, name)]
    if not needing:
        return None
    return MirrorPlan(
        fraction=state.mirror,
        arms=tuple(experiment.arms.index(candidate) for candidate in needing),
        noise_floor=asked[-1].noise_floor,
    )


def _all_pass(state: ExperimentState, metrics: Iterable[str], candidate: str) -> bool:
    found = [state.verdicts.get(test_key(metric, candidate)) for metric in metrics]
    return all(verdict is not None and verdict.outcome is Outcome.PASS for verdict in found)
