"""Requests of people: whether an experiment can do it now, and what the next tick answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anabranch.bandit.decision import Change, Command, Decision, Verb
from anabranch.bandit.lifecycle import TRANSITIONS, Event, Phase
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, did_you_mean
from anabranch.store.document import parse
from anabranch.store.port import StoredDecision, StoredExperiment

EVENT_OF = {
    Verb.PROMOTE: Event.WIN,
    Verb.PROMOTE_FULL: Event.WIN,
    Verb.PAUSE: Event.PAUSE,
    Verb.RESUME: Event.RESUME,
    Verb.ABORT: Event.ABORT,
    Verb.RETRY: Event.RETRY,
    Verb.UNDO: Event.UNDO,
    Verb.APPROVE: Event.APPROVE,
    Verb.REVISE: Event.REVISE,
}
"""The transition that a verb asks for; what a gate answers is none of a person's."""

_BY_PEOPLE = tuple(verb for verb in EVENT_OF if verb not in (Verb.REVISE, Verb.PROMOTE_FULL))


def event_of(verb: Verb, phase: Phase) -> Event:
    """The transition that a verb asks for in a phase: in full, a promotion that has begun is committed."""
    if verb is Verb.PROMOTE_FULL and phase is Phase.PROMOTING:
        return Event.COMMIT
    return EVENT_OF[verb]


def check_possible(
    stored: StoredExperiment, pending: Sequence[Command], verb: Verb, variant: str = ""
) -> None:
    """Refuse at once what the next tick would refuse.

    Args:
        stored: The experiment.
        pending: Earlier requests that no tick has answered; they come first.
        verb: What is asked.
        variant: What is to be promoted, empty for the one live candidate; the gate to open, empty for the one that waits.

    Raises:
        CommandFailed: If the phase does not allow it; names the verbs that it does allow.
    """
    phase = phase_after(stored.state.phase, pending)
    if (phase, event_of(verb, phase)) not in TRANSITIONS:
        waiting = ", ".join(command.verb for command in pending)
        will = f"will be {phase} after {waiting}" if pending else f"is {phase}"
        possible = ", ".join(possible_verbs(phase)) or "nothing"
        raise CommandFailed(
            ExitCode.REFUSED,
            f"cannot {verb} {stored.name}: it {will}",
            f"possible then: {possible}" if pending else f"possible now: {possible}",
        )
    if verb is Verb.APPROVE:
        _check_waits(stored, variant)
    elif variant and variant not in stored.state.live:
        live = ", ".join(stored.state.live) or "none"
        gone = next((removal for removal in stored.state.removed if removal.variant == variant), None)
        if gone is not None:
            raise CommandFailed(
                ExitCode.REFUSED,
                f"cannot promote {variant}: it was removed ({gone.reason})",
                f"live are: {live}; `anabranch retry` begins again with every candidate",
            )
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"{variant!r} is no live candidate of {stored.name}; live are: {live}{did_you_mean(variant, stored.state.live)}",
        )


def _check_waits(stored: StoredExperiment, gate: str) -> None:
    """Refuse to open a gate that nobody waits for."""
    from anabranch.bandit.gating import waiting_gates

    waiting = [each.name for each in waiting_gates(parse(stored.document), stored.state)]
    if gate in waiting or (not gate and len(waiting) == 1):
        return
    if not waiting:
        raise CommandFailed(ExitCode.REFUSED, f"{stored.name} waits for no gate")
    if not gate:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"{stored.name} waits for {len(waiting)} gates: {', '.join(waiting)}",
            f"choose one: `anabranch approve {stored.name} GATE`",
        )
    raise CommandFailed(
        ExitCode.NOT_FOUND,
        f"{stored.name} does not wait for gate {gate!r}; waiting are: {', '.join(waiting)}{did_you_mean(gate, waiting)}",
    )


def chosen_variant(stored: StoredExperiment, verb: Verb, variant: str) -> str:
    """What a promotion is of; empty for every other verb.

    Args:
        stored: The experiment.
        verb: What is asked.
        variant: What was named, empty when nothing was: the one live candidate is meant then.

    Raises:
        CommandFailed: If nothing was named and several candidates are live; says what each has yet to prove.
    """
    live = stored.state.live
    if verb not in (Verb.PROMOTE, Verb.PROMOTE_FULL) or variant:
        return variant
    if stored.state.phase is Phase.PROMOTING:
        return stored.state.winner or ""
    if len(live) <= 1:
        return "".join(live)
    # Only this refusal reads verdicts: asking for anything else would wait for the statistics to load.
    from anabranch.bandit.choose import open_claims

    experiment = parse(stored.document)
    listed = []
    for candidate in live:
        unproven = ", ".join(open_claims(experiment, stored.state, candidate))
        listed.append(
            f"  {candidate}: {f'not proven yet: {unproven}' if unproven else 'everything is proven'}"
        )
    raise CommandFailed(
        ExitCode.BAD_INPUT,
        "\n".join([f"{stored.name} has {len(live)} live candidates, and none was named:", *listed]),
        f"choose one: `anabranch promote {stored.name} --variant NAME`",
    )


def phase_after(phase: Phase, pending: Sequence[Command]) -> Phase:
    """The phase once earlier requests are answered; what is not possible is refused and changes nothing."""
    for command in pending:
        if command.verb in EVENT_OF:
            phase = TRANSITIONS.get((phase, event_of(command.verb, phase)), phase)
    return phase


def possible_verbs(phase: Phase) -> list[str]:
    """What a person can ask in a phase, in the order of the verbs."""
    return [verb.value for verb in _BY_PEOPLE if (phase, EVENT_OF[verb]) in TRANSITIONS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a tick made of a request.

    Attributes:
        refused: Why not; empty when it was done.
    """

    decision: Decision
    refused: str


def answer_to(command: Command, decisions: Sequence[StoredDecision]) -> Answer | None:
    """The decision that answered a request, None while there is none."""
    for kept in reversed(decisions):
        if command.id in kept.decision.handled:
            ours = f"{command.verb} by {command.actor} refused: "
            refusals = [
                action.reason
                for action in kept.decision.actions
                if action.change is Change.REFUSED and action.reason.startswith(ours)
            ]
            return Answer(decision=kept.decision, refused=refusals[-1] if refusals else "")
    return None


def await_answer(
    command: Command,
    load: Callable[[], Sequence[StoredDecision]],
    *,
    now: Callable[[], float],
    wait: Callable[[float], None],
    timeout_s: float,
    every_s: float = 0.25,
) -> Answer | None:
    """Wait for the tick that answers a request; None when the time is up."""
    until = now() + timeout_s
    while True:
        answer = answer_to(command, load())
        if answer is not None:
            return answer
        if now() >= until:
            return None
        wait(every_s)
