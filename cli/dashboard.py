"""One experiment on one screen: a pure function of its view and the screen's size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from rich.console import Group, RenderableType
from rich.text import Text

from anabranch.cli.marks import PHASE_MARKS, PHASE_STYLES, STEP_MARKS, STEP_STYLES
from anabranch.cli.numbers import duration, share
from anabranch.cli.palette import arm_colours
from anabranch.cli.story import current, earlier_versions, shortened, telling
from anabranch.cli.traffic_table import name_width, traffic_table
from anabranch.cli.verdict_grid import verdict_grid
from anabranch.cli.view_types import ArmState, ArmView, DecisionView, ExperimentView, StepState

TALL = 32
"""From this many lines on every step and every open claim has its own line."""

_LEAST_LOG = 3


def render(view: ExperimentView, width: int, height: int) -> RenderableType:
    """The screen.

    Args:
        view: What to show.
        width: Columns, at least 60.
        height: Lines that may be used; fewer are used when there is less to say.
    """
    top: list[Text] = [title_line(view, width), *step_lines(view, width, tall=height >= TALL)]
    # Both tables with their headers and the blank lines between the parts come before long notices.
    spare = height - len(top) - 2 * len(view.arms) - 7 - _LEAST_LOG
    bottom = notice_lines(view, width, most=max(1, min(5 if height >= TALL else 3, spare)))
    # The tables cost three lines of headers and three blank lines.
    space = height - len(top) - len(bottom) - 6 - _LEAST_LOG
    shown, hidden = choose_arms(view.arms, space)
    candidates = [arm for arm in shown if arm.state is not ArmState.BASELINE]
    names = name_width(shown, width)
    colours = arm_colours([arm.name for arm in view.arms])
    parts: list[RenderableType] = [*top, Text(), traffic_table(shown, width, names, colours)]
    used = len(top) + 1 + 1 + len(shown)
    if hidden:
        parts.append(Text(f"  and {hidden} more: anabranch describe {view.name}", style="dim"))
        used += 1
    if candidates:
        parts += [Text(), verdict_grid(candidates, width, names)]
        used += 3 + len(candidates)
    parts += bottom
    used += len(bottom)
    earlier = earlier_versions(view)
    log = log_lines(current(view), width, height - used - 1 - bool(earlier))
    if log:
        parts += [Text(), *([_clipped(Text(earlier, style="dim"), width)] if earlier else []), *log]
    return Group(*parts)


def choose_arms(arms: Sequence[ArmView], space: int) -> tuple[list[ArmView], int]:
    """The variants that fit, in their order, and how many do not.

    A candidate costs two lines, one in each table. The baseline always fits; removed candidates go first,
    then those with the least traffic.
    """
    baseline = [arm for arm in arms if arm.state is ArmState.BASELINE]
    others = [arm for arm in arms if arm.state is not ArmState.BASELINE]
    room = max(1, (space - len(baseline)) // 2)
    if len(others) > room:
        room = max(1, (space - len(baseline) - 1) // 2)
    ranked = sorted(others, key=lambda arm: (arm.state is ArmState.REMOVED, -arm.weight))[:room]
    kept = {arm.name for arm in ranked}
    return [*baseline, *(arm for arm in others if arm.name in kept)], len(others) - len(ranked)


def log_lines(decisions: Sequence[DecisionView], width: int, most: int) -> list[Text]:
    """The end of the decision log, a line for each thing a decision did, newest last.

    Of several decisions in a row that only moved the weights the last one is shown: a bandit moves them often.
    """
    lines: list[Text] = []
    for decision, after in zip_longest(decisions, decisions[1:]):
        if after is not None and _only_moves(decision) and _only_moves(after):
            continue
        stamp = f"+{duration(decision.since_start_s)}".rjust(8) + f"  #{decision.number}".ljust(6)
        for index, action in enumerate(telling(decision)):
            head = stamp if index == 0 else " " * len(stamp)
            reason = shortened(action.reason, width - len(head))
            lines.append(_clipped(Text.assemble((head, "dim"), (reason, _tone(action.change))), width))
    return lines[-most:] if most > 0 else []


def _only_moves(decision: DecisionView) -> bool:
    return all(action.change == "weights" for action in decision.actions)


def step_line(view: ExperimentView, width: int) -> Text:
    """All steps on one line; the ones far from the current give way first."""
    parts = [_step_text(view, index, short=False) for index in range(len(view.steps))]
    if _joined_length(parts) > width:
        parts = [_step_text(view, index, short=True) for index in range(len(view.steps))]
    first, last = 0, len(parts)
    here = max(0, view.step - 1)
    while last - first > 1 and _joined_length(parts[first:last], first > 0, last < len(parts)) > width:
        if here - first > last - 1 - here:
            first += 1
        else:
            last -= 1
    line = Text(" › ", style="dim").join(parts[first:last])
    if first > 0:
        line = Text.assemble(("… › ", "dim"), line)
    if last < len(parts):
        line = Text.assemble(line, (" › …", "dim"))
    return _clipped(line, width)


def title_line(view: ExperimentView, width: int) -> Text:
    """Name, phase and model, and on the right how long it has run."""
    phase = f"{PHASE_MARKS[view.phase]} {view.phase}"
    mirror = f"  mirroring {share(view.mirror)}" if view.mirror else ""
    left = Text.assemble(
        (view.name, "bold"), "  ", (phase, PHASE_STYLES[view.phase]), ("  model ", "dim"), view.model, mirror
    )
    right = "not started" if view.elapsed_s is None else duration(view.elapsed_s)
    left = _clipped(left, width - len(right) - 2)
    return Text.assemble(left, " " * (width - left.cell_len - len(right)), (right, "bold"))


def step_lines(view: ExperimentView, width: int, *, tall: bool) -> list[Text]:
    """The steps: a line each where there is room, else all on one."""
    if not tall:
        return [step_line(view, width)]
    titles = max((len(step.title) for step in view.steps), default=0)
    lines = []
    for index, step in enumerate(view.steps):
        corner = "└" if index == len(view.steps) - 1 else "├"
        spent = "" if step.elapsed_s is None else duration(step.elapsed_s)
        detail = step.progress or step.detail
        line = Text.assemble(
            (f"{corner} ", "dim"),
            (f"{STEP_MARKS[step.state]} {step.title.ljust(titles)}", STEP_STYLES[step.state]),
            f"  {spent:>7}  ",
            (detail, "dim"),
        )
        lines.append(_clipped(line, width))
    return lines


def _step_text(view: ExperimentView, index: int, *, short: bool) -> Text:
    step = view.steps[index]
    text = Text(
        f"{STEP_MARKS[step.state]} {step.kind if short else step.title}", style=STEP_STYLES[step.state]
    )
    if step.state is StepState.CURRENT:
        if step.progress:
            text.append(f" {step.progress}")
        text.append(f" {duration(step.elapsed_s)}")
    return text


def _joined_length(parts: Sequence[Text], cut_left: bool = False, cut_right: bool = False) -> int:
    return sum(part.cell_len for part in parts) + 3 * (len(parts) - 1) + 4 * (cut_left + cut_right)


def notice_lines(view: ExperimentView, width: int, most: int) -> list[Text]:
    """What a person asked for, and what the experiment waits for."""
    lines = [
        Text.assemble(
            ("asked    ", "yellow"), f"{request.verb} {request.argument}".strip(), f" by {request.actor}"
        )
        for request in view.requests[-1:]
    ]
    waits = list(view.waiting_for)
    if len(waits) > most:
        first = "; ".join(waits[:most]) if most == 1 else ""
        waits = (
            [f"{first} (and {len(waits) - 1} more)"]
            if most == 1
            else [*waits[: most - 1], f"and {len(waits) - most + 1} more"]
        )
    for index, wait in enumerate(waits):
        lines.append(Text.assemble(("waits for" if index == 0 else " " * 9, "dim"), " ", wait))
    return [Text(), *(_clipped(line, width) for line in lines)] if lines else []


def _tone(change: str) -> str:
    return {"removed": "red", "winner": "green", "refused": "yellow", "phase": "bold"}.get(change, "")


def _clipped(text: Text, width: int) -> Text:
    clipped = text.copy()
    clipped.truncate(max(1, width), overflow="ellipsis")
    clipped.no_wrap = True
    return clipped
