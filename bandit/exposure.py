"""Who gets traffic from now on: the arms' weights, and the share of requests that is mirrored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from anabranch.bandit.allocation import next_weights
from anabranch.bandit.budget import is_spent
from anabranch.bandit.course import Course, full_weights
from anabranch.bandit.decision import Change
from anabranch.bandit.gating import is_held
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.spec import BanditStep, MirrorStep, PromoteStep, SetWeightStep


def settle_mirror(course: Course) -> None:
    """Copy requests as long as a mirror step asks for it: in the step, and beside the next ones while undecided."""
    wanted = _wanted_mirror(course)
    if wanted == course.state.mirror:
        return
    course.state = replace(course.state, mirror=wanted)
    share = f"{wanted:.1%} of the requests are mirrored" if wanted else "mirroring ends"
    course.note(Change.MIRROR, share)


def _wanted_mirror(course: Course) -> float:
    if course.state.phase not in (Phase.PROGRESSING, Phase.PAUSED):
        return 0.0
    if isinstance(course.step, MirrorStep):
        return course.step.fraction
    earlier = course.experiment.steps[: course.state.step]
    asked = next((step for step in reversed(earlier) if isinstance(step, MirrorStep)), None)
    if asked is None:
        return 0.0
    is_open = any(
        not course.passes(name, candidate) for candidate in course.state.live for name in asked.until_decided
    )
    return asked.fraction if is_open else 0.0


def set_weights(course: Course) -> None:
    """Begin a new epoch when the weights that are wanted are not the ones in use."""
    _propose(course)
    weights = _wanted_weights(course)
    state = course.state
    spent = _spent(course)
    if weights is not None:
        weights = {name: 0.0 if name in spent else share for name, share in weights.items()}
    if weights is None or full_weights(course.experiment, weights) == dict(state.weights):
        return
    full = full_weights(course.experiment, weights)
    course.state = replace(
        course.state,
        weights=full,
        epoch=state.epoch + 1,
        epoch_started_s=course.now,
    )
    shares = ", ".join(f"{arm} {share:.1%}" for arm, share in full.items() if share > 0)
    held = f"; {', '.join(spent)} may have done as much harm as is allowed" if spent else ""
    course.note(Change.WEIGHTS, f"weights: {shares}{held}")


def _spent(course: Course) -> list[str]:
    """Candidates that get no traffic for now, since they may have used up their exposure budget."""
    if course.state.phase not in (Phase.PROGRESSING, Phase.PAUSED) or course.experiment.observes:
        return []
    return [name for name in course.state.live if is_spent(course.experiment, course.state, name)]


def _wanted_weights(course: Course) -> Mapping[str, float] | None:
    """The candidates' shares from now on; None keeps what is."""
    state, step = course.state, course.step
    # Where decisions are recorded only, a candidate that would be removed keeps what a step gave it.
    kept = course.experiment.candidates if course.experiment.observes else state.live
    live = {candidate: state.weights.get(candidate, 0.0) for candidate in kept}
    match state.phase:
        case Phase.PENDING:
            return None
        case Phase.ROLLED_BACK | Phase.ABORTED | Phase.INCONCLUSIVE:
            return {}
        case Phase.PROMOTED:
            return {state.winner: 1.0} if state.winner else {}
        case Phase.PROMOTING:
            assert state.winner is not None
            if not isinstance(step, PromoteStep):
                return {state.winner: 1.0}
            return {state.winner: min(step.weights[state.part], 1.0 - step.hold_back)}
        case Phase.PAUSED:
            # Not what is: the step that waits for a person may have been reached with a new weight in this tick.
            return _last_set_weight(course, live)
        case Phase.PROGRESSING:
            if not isinstance(step, BanditStep) or course.experiment.observes:
                return _last_set_weight(course, live)
            # A gate may have come in flight: what the bandit has reached stays until it is open.
            return live if is_held(course.experiment, state) else _bandit_weights(course, step, live)
        case _:
            assert_never(state.phase)


def _bandit_weights(course: Course, step: BanditStep, live: Mapping[str, float]) -> Mapping[str, float]:
    state = course.state
    lost_arm = set(live) - set(_spent(course)) != {
        arm for arm, share in state.weights.items() if share > 0
    } - {course.experiment.baseline}
    begins = state.allocated_s < state.step_started_s
    # Without new outcomes there is nothing to learn: the state follows from the evidence and its times alone.
    is_due = course.has_seen and course.now - state.allocated_s >= step.update_period_s
    if not (begins or lost_arm or is_due):
        return live
    course.state = replace(state, allocated_s=course.now)
    return next_weights(course.experiment, state, step)


def _last_set_weight(course: Course, live: Mapping[str, float]) -> Mapping[str, float]:
    """What the last `setWeight` step up to here says, for the candidates that are left."""
    held = is_held(course.experiment, course.state)
    for step in reversed(course.experiment.steps[: course.state.step + (not held)]):
        if isinstance(step, SetWeightStep):
            return dict.fromkeys(live, step.weight)
        if isinstance(step, BanditStep) and not course.experiment.observes:
            return live
    return dict.fromkeys(live, 0.0)


def _propose(course: Course) -> None:
    """Where decisions are recorded only: say what a bandit step would set, whenever its turn comes."""
    state, step = course.state, course.step
    if not (course.experiment.observes and isinstance(step, BanditStep) and state.phase is Phase.PROGRESSING):
        return
    if not state.live or is_held(course.experiment, state):
        return
    begins = state.allocated_s < state.step_started_s
    if not begins and not (course.has_seen and course.now - state.allocated_s >= step.update_period_s):
        return
    wished = full_weights(course.experiment, next_weights(course.experiment, state, step))
    course.state = replace(state, allocated_s=course.now, proposed=wished)
    if wished != dict(state.proposed):
        shares = ", ".join(f"{arm} {share:.1%}" for arm, share in wished.items() if share > 0)
        course.note(Change.PROPOSED, f"would set weights: {shares}")
