"""What people ask of an experiment: a request is followed, or refused with the reason and nothing changed."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from anabranch.bandit import choose
from anabranch.bandit.course import Course, next_step, win
from anabranch.bandit.decision import Change, Command, Verb
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
            if course.experiment.observes:
                raise IllegalTransition("its mode is observe: abort it, and apply it with mode: apply")
            candidate = command.argument or choose.leader(course.experiment, state, state.live)
            if candidate not in state.live:
                live = ", ".join(state.live) or "none"
                raise IllegalTransition(f"{candidate or 'nothing'} is not a live candidate; live are {live}")
            win(course, candidate, f"{candidate} is promoted {by}, whatever the verdicts")
        case _:
            assert_never(command.verb)


def _revise(course: Course, command: Command) -> None:
    """Go on with a changed document; raises IllegalTransition where the phase or the change does not allow it."""
    follow(course.state.phase, Event.REVISE)
    assert command.revision is not None, "the controller reads the document into the command"
    changed = changes(course.experiment, command.revision, course.state)
    course.experiment = command.revision
    course.note(Change.REVISED, f"revised by {command.actor}: {', '.join(changed) or 'nothing changes'}")
