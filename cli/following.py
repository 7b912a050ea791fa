"""Follow the decision log and the audit log: what is new, a line each, for people and for scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn, TypeVar

from anabranch.bandit.lifecycle import Phase
from anabranch.cli.format import Format
from anabranch.cli.loading import load_decisions
from anabranch.cli.numbers import moment
from anabranch.cli.output import encoded, json_line
from anabranch.cli.story import reason_of, telling
from anabranch.cli.terminal import Terminal
from anabranch.cli.view_types import DecisionView
from anabranch.store.control_plane import ReadPlane
from anabranch.store.port import AuditEvent

Thing = TypeVar("Thing")


def follow_decisions(
    terminal: Terminal,
    store: ReadPlane,
    name: str,
    first: Sequence[DecisionView],
    output: Format,
    refresh_s: float,
) -> None:
    """Say every decision as it comes, until no tick moves the experiment on.

    Args:
        terminal: Where to.
        store: Where from.
        name: The experiment.
        first: Decisions to begin with.
        output: A table is a line for each thing that a decision did.
        refresh_s: Seconds between two looks.
    """
    said = (0, 0)
    new: Sequence[DecisionView] = first
    while True:
        _say_each(terminal, new, output, _decision_lines)
        said = max([said, *((each.spec_version, each.number) for each in new)])
        phase = store.experiment(name).state.phase
        if (phase.is_over or phase is Phase.INCONCLUSIVE) and not store.pending(name):
            return
        terminal.clock.wait(refresh_s)
        new = [each for each in load_decisions(store, name) if (each.spec_version, each.number) > said]


def follow_events(
    terminal: Terminal, store: ReadPlane, name: str | None, output: Format, refresh_s: float
) -> NoReturn:
    """Say every entry of the audit log as it comes, until somebody interrupts."""
    said = 0
    while True:
        new = [event for event in store.events(name) if event.id > said]
        _say_each(terminal, new, output, _event_lines)
        said = max([said, *(event.id for event in new)])
        terminal.clock.wait(refresh_s)


def _say_each(
    terminal: Terminal, things: Sequence[Thing], output: Format, lines: Callable[[Thing], Iterable[str]]
) -> None:
    for thing in things:
        if output is Format.JSON:
            terminal.say(json_line(thing))
        elif output is Format.YAML:
            terminal.say(f"---\n{encoded(thing, output)}")
        else:
            for line in lines(thing):
                terminal.say(line)


def _decision_lines(decision: DecisionView) -> Iterable[str]:
    return (
        f"{decision.at} #{decision.number} {decision.phase} {action.change}: {reason_of(action)}"
        for action in telling(decision)
    )


def _event_lines(event: AuditEvent) -> Iterable[str]:
    yield f"{moment(event.at_s)} {event.actor} {event.experiment} {event.verb} {event.detail}".rstrip()
