"""What people ask of an experiment: a request is followed, or refused with the reason and nothing changed."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from anabranch.bandit import choose
from anabranch.bandit.course import Course, commit, next_step, win
from anabranch.bandit.decision import Change, Command, Verb
from anabranch.bandit.failing import why_failed
from anabranch.bandit.gating import approve, hear_answer
from anabranch.bandit.lifecycle import Event, IllegalTransition, Phase, follow
from anabranch.bandit.revising import changes
from anabranch.bandit.spec import PauseStep
from anabranch.bandit.state import ExperimentState


def obey(course: Course, command: Command) -> None:
    """Follow a request, or note why it is refused."""
    try:
        _follow_command(course, command)
    except IllegalTransition as refusal:
        course.note(Change.REFUSED, f"{command.verb} by {command.actor} refused: {refusal}")


def _follow_command(course: Course, command: Command) -> None:
    by = f"by {command.actor}"
    state = course.state
    match command.verb:
        case Verb.PAUSE:
            course.enter(Event.PAUSE, f"paused {by}")
        case Verb.RESUME:
            course.enter(Event.RESUME, f"resumed {by}")
            if isinstance(course.step, PauseStep) and course.step.duration_s is None:
                next_step(course)
        case Verb.ABORT:
            course.enter(Event.ABORT, f"aborted {by}: {course.experiment.baseline} serves all traffic")
        case Verb.RETRY:
            course.enter(Event.RETRY, f"started again {by}")
            course.state = ExperimentState(
                decisions=state.decisions, epoch=state.epoch + 1, cursor=state.cursor, weights=state.weights
            )
        case Verb.UNDO:
            course.reverted = state.phase is Phase.PROMOTED
            course.enter(
                Event.UNDO, f"promotion undone {by}: {course.experiment.baseline} serves all traffic"
            )
            course.state = replace(course.state, winner=None)
        case Verb.APPROVE:
            approve(course, command)
        case Verb.ANSWER:
            hear_answer(course, command)
        case Verb.REVISE:
            _revise(course, command)
        case Verb.PROMOTE:
            candidate = _promotable(course, command)
            win(course, candidate, f"{candidate} is promoted {by}, whatever the verdicts")
        case Verb.PROMOTE_FULL:
            _promote_fully(course, command)
        case _:
            assert_never(command.verb)


def _promotable(course: Course, command: Command) -> str:
    """The candidate that is to be promoted; raises IllegalTransition where there is none."""
    if course.experiment.observes:
        raise IllegalTransition("its mode is observe: abort it, and apply it with mode: apply")
    live = course.state.live
    candidate = command.argument or choose.leader(course.experiment, course.state, live)
    if candidate not in live:
        raise IllegalTransition(
            f"{candidate or 'nothing'} is not a live candidate; live are {', '.join(live) or 'none'}"
        )
    return candidate


def _promote_fully(course: Course, command: Command) -> None:
    """Give a candidate everything at once, or end the ramp of a promotion that has begun."""
    state = course.state
    if state.phase is not Phase.PROMOTING:
        candidate = _promotable(course, command)
        _require_sound(course, candidate)
        reason = f"{candidate} is promoted in full by {command.actor}, whatever is not proven yet"
        win(course, candidate, reason, skips_ramp=True)
        return
    assert state.winner is not None
    if command.argument not in ("", state.winner):
        raise IllegalTransition(f"{state.winner} is being promoted: undo that first, or promote it in full")
    _require_sound(course, state.winner)
    course.note(Change.STEP, f"{command.actor} ends the ramp of {state.winner}")
    commit(course, state.winner)


def _require_sound(course: Course, candidate: str) -> None:
    """Raises IllegalTransition for a candidate that fails in this very tick: afterwards nobody would watch it."""
    if reason := why_failed(course, candidate):
        raise IllegalTransition(f"{candidate} has failed: {reason}")


def _revise(course: Course, command: Command) -> None:
    """Go on with a changed document; raises IllegalTransition where the phase or the change does not allow it."""
    follow(course.state.phase, Event.REVISE)
    assert command.revision is not None, "the controller reads the document into the command"
    changed = changes(course.experiment, command.revision, course.state)
    course.experiment = command.revision
    course.note(Change.REVISED, f"revised by {command.actor}: {', '.join(changed) or 'nothing changes'}")
