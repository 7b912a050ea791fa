"""Gates inside a tick: which are closed, what their answers change, and which somebody outside has to ask next.

A gate is asked for an occasion: the start, a step, a promotion. Its visit remembers what came of it. A yes opens it for
that occasion, a no keeps it closed, and no answer is unknown, which holds. Only a yes of a rollback gate, or more
refusals than a gate's own limit, end an experiment; a gate that breaks never does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from anabranch.bandit.course import Course
from anabranch.bandit.decision import Change, Command
from anabranch.bandit.hooks import Gate, GateKind
from anabranch.bandit.lifecycle import Event, IllegalTransition, Phase, follow
from anabranch.bandit.spec import BanditStep, Experiment, GateStep, SetWeightStep
from anabranch.bandit.state import ExperimentState, GateVisit, Reply

CAN_ROLL_BACK = (Phase.PROGRESSING, Phase.PAUSED, Phase.INCONCLUSIVE, Phase.PROMOTING)
"""Phases in which rollback gates are asked."""


def are_open(course: Course, gates: tuple[Gate, ...], occasion: str) -> bool:
    """Whether all of the gates are open for an occasion; those that are asked for it first are noted."""
    # All of them are asked, not only those before the first that is closed.
    found = [_is_open(course, gate, occasion) for gate in gates]
    return all(found)


def may_enter(course: Course) -> bool:
    """Whether the current step may take effect: one that gives a candidate more traffic waits for its gates.

    A step's clock starts when its gates are open.
    """
    gates = course.experiment.gates_of(GateKind.CONFIRM_TRAFFIC_INCREASE)
    if not gates or not _raises_traffic(course):
        return True
    if not are_open(course, gates, step_occasion(course.state)):
        return False
    visits = {gate.name: course.state.gates[gate.name] for gate in gates}
    entered = {name: replace(visit, entered=True) for name, visit in visits.items() if not visit.entered}
    if entered:
        course.state = replace(
            course.state, gates={**course.state.gates, **entered}, step_started_s=course.now
        )
    return True


def is_held(experiment: Experiment, state: ExperimentState) -> bool:
    """Whether the current step waits for its gates, and has no effect yet."""
    occasion = step_occasion(state)
    visits = [state.gates.get(gate.name) for gate in experiment.gates_of(GateKind.CONFIRM_TRAFFIC_INCREASE)]
    return any(visit is not None and visit.occasion == occasion and not visit.entered for visit in visits)


def step_occasion(state: ExperimentState, part: int = 0) -> str:
    """How a step, or a part of the promotion's ramp, is called as an occasion."""
    return f"step {state.step + 1}" + (f" part {part + 1}" if part else "")


def waiting_gates(experiment: Experiment, state: ExperimentState) -> tuple[Gate, ...]:
    """The gates that the experiment waits for, in the order of the spec."""
    if state.phase.is_over or state.phase is Phase.INCONCLUSIVE:
        return ()
    return tuple(
        gate
        for gate in experiment.all_gates
        if (visit := state.gates.get(gate.name)) is not None and visit.reply is not Reply.YES
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What somebody outside has to ask, for the effect runner.

    Attributes:
        attempt: Counts the recorded answers of this occasion; the same question has the same number.
    """

    gate: Gate
    occasion: str
    epoch: int
    attempt: int
    last: Reply


def questions(experiment: Experiment, state: ExperimentState) -> tuple[Question, ...]:
    """Every webhook that is to be asked for as long as nothing changes, at each gate's interval."""
    asked = [
        Question(
            gate=gate,
            occasion=visit.occasion,
            epoch=visit.epoch,
            attempt=visit.answers,
            last=visit.reply,
        )
        for gate in waiting_gates(experiment, state)
        for visit in (state.gates[gate.name],)
        if gate.webhook is not None
    ]
    if state.phase in CAN_ROLL_BACK:
        asked += [
            Question(gate=gate, occasion="rollback", epoch=state.epoch, attempt=0, last=Reply.NONE)
            for gate in experiment.gates_of(GateKind.ROLLBACK)
            if gate.webhook is not None
        ]
    return tuple(asked)


_BETWEEN = "|"


def answer_text(gate: str, reply: Reply, occasion: str, detail: str) -> str:
    """An answer as a command's argument; what was said comes last, since it may hold anything."""
    return _BETWEEN.join((gate, reply, occasion, detail))


def hear_answer(course: Course, command: Command) -> None:
    """What a webhook said: it opens its gate, keeps it closed, or rolls back.

    Raises:
        IllegalTransition: If nobody waits for it any more.
    """
    parts = command.argument.split(_BETWEEN, 3)
    if len(parts) != 4 or parts[1] not in (Reply.YES, Reply.NO, Reply.UNKNOWN):
        raise IllegalTransition(f"{command.argument!r} is no answer of a gate")
    name, reply, occasion, detail = parts[0], Reply(parts[1]), parts[2], parts[3]
    gate = next((gate for gate in course.experiment.all_gates if gate.name == name), None)
    if gate is not None and gate.kind is GateKind.ROLLBACK and reply is Reply.YES:
        if course.state.phase not in CAN_ROLL_BACK:
            raise IllegalTransition(
                f"gate {name} asks to roll back an experiment that is {course.state.phase}"
            )
        baseline = course.experiment.baseline
        course.enter(Event.LOSE, f"rolled back by gate {name} ({detail}): {baseline} serves all traffic")
        return
    visit = course.state.gates.get(name)
    if gate is None or visit is None or visit.occasion != occasion or visit.reply is Reply.YES:
        raise IllegalTransition(f"nobody waits for gate {name} at {occasion} any more")
    refusals = visit.refusals + (reply is Reply.NO)
    _record(
        course, gate, replace(visit, reply=reply, detail=detail, refusals=refusals, answers=visit.answers + 1)
    )
    course.note(Change.GATE, f"gate {name} {_SAYS[reply]} ({detail})")
    if gate.failure_limit is not None and refusals > gate.failure_limit:
        course.enter(
            Event.LOSE,
            f"rolled back: gate {name} refused {refusals} times > failureLimit {gate.failure_limit}",
        )


def approve(course: Course, command: Command) -> None:
    """A person opens a gate that waits, whoever was to be asked.

    Raises:
        IllegalTransition: If that gate does not wait, or several do and none was named.
    """
    follow(course.state.phase, Event.APPROVE)
    waiting = {gate.name: gate for gate in waiting_gates(course.experiment, course.state)}
    name = command.argument or ("".join(waiting) if len(waiting) == 1 else "")
    if name not in waiting:
        what = f"gate {name} does not wait" if name else "no gate was named"
        raise IllegalTransition(f"{what}; waiting are {', '.join(waiting) or 'none'}")
    visit = course.state.gates[name]
    _record(course, waiting[name], replace(visit, reply=Reply.YES, detail=f"approved by {command.actor}"))
    course.note(Change.GATE, f"gate {name} is approved by {command.actor}")


_SAYS = {
    Reply.YES: "is open",
    Reply.NO: "refuses",
    Reply.UNKNOWN: "gives no clear answer, which holds",
    Reply.NONE: "was not asked",
}


def _is_open(course: Course, gate: Gate, occasion: str) -> bool:
    visit = course.state.gates.get(gate.name)
    if visit is not None and visit.occasion == occasion:
        return visit.reply is Reply.YES
    _record(course, gate, GateVisit(occasion=occasion, since_s=course.now, epoch=course.state.epoch))
    # Its host alone: decisions are read by more people than may know the rest of an address.
    who = f"{urlsplit(gate.webhook.url).netloc} is asked" if gate.webhook else "a person has to approve it"
    course.note(Change.GATE, f"{occasion} waits for gate {gate.name} ({gate.kind}): {who}")
    return False


def _record(course: Course, gate: Gate, visit: GateVisit) -> None:
    course.state = replace(course.state, gates={**course.state.gates, gate.name: visit})


def _raises_traffic(course: Course) -> bool:
    step, weights = course.step, course.state.weights
    if isinstance(step, SetWeightStep):
        return any(step.weight > weights.get(name, 0.0) for name in course.state.live)
    return isinstance(step, BanditStep)


def gate_step_over(course: Course, step: GateStep) -> str | None:
    """Why a gate's own step is over, or None while it is closed."""
    if are_open(course, (step.gate,), step_occasion(course.state)):
        return f"gate {step.gate.name} is open ({course.state.gates[step.gate.name].detail})"
    if step.max_duration_s is not None and course.elapsed_s >= step.max_duration_s:
        course.enter(
            Event.UNDECIDED,
            f"gate {step.gate.name} was not opened within {step.max_duration_s:.0f} s, the baseline is kept",
        )
    return None
