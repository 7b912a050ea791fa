"""Plain tables for lists: aligned columns without lines, as shells and people like them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from anabranch.cli.marks import PHASE_STYLES
from anabranch.cli.numbers import duration, moment, share
from anabranch.cli.story import reason_of
from anabranch.cli.view_types import DecisionView, ExperimentRow
from anabranch.store.ledger_port import Tenure
from anabranch.store.port import AuditEvent

_GAP = 2


def experiments_table(rows: Sequence[ExperimentRow], width: int) -> Table:
    """The list of experiments.

    Args:
        rows: One line each.
        width: Columns of the screen; where they are too few, weights give way, then steps.
    """
    table = _table("NAME", "MODEL", "PHASE", "STEP", "LIVE", "WEIGHTS", "AGE")
    for row in rows:
        step = "-" if row.step == 0 else f"{row.step}/{row.steps} {row.step_name}"
        if row.step_elapsed_s is not None:
            step += f" ({duration(row.step_elapsed_s)})"
        table.add_row(
            row.name,
            row.model,
            Text(row.phase, style=PHASE_STYLES[row.phase]),
            step,
            f"{row.live}/{row.candidates}",
            weights_text(row.weights),
            duration(row.age_s),
        )
    _shrink(table, width, "WEIGHTS", "STEP")
    return table


def history_table(decisions: Sequence[DecisionView]) -> Table:
    """The decision log."""
    table = _table("#", "TIME", "PHASE", "CHANGE", "WHY")
    table.columns[-1].no_wrap = False
    table.columns[-1].overflow = "fold"
    versions = {decision.spec_version for decision in decisions}
    for decision in decisions:
        number = f"{decision.spec_version}.{decision.number}" if len(versions) > 1 else str(decision.number)
        for index, action in enumerate(decision.actions):
            head = (number, decision.at, decision.phase) if index == 0 else ("", "", "")
            table.add_row(*head, action.change, reason_of(action))
    return table


def events_table(events: Sequence[AuditEvent]) -> Table:
    """The audit log."""
    table = _table("TIME", "ACTOR", "EXPERIMENT", "VERB", "DETAIL")
    for event in events:
        table.add_row(moment(event.at_s), event.actor, event.experiment, event.verb, event.detail or "-")
    return table


def tenures_table(tenures: Sequence[Tenure]) -> Table:
    """Who was a model's baseline since when, and why."""
    table = _table("SINCE", "BASELINE", "BY", "WHY")
    table.columns[-1].no_wrap = False
    table.columns[-1].overflow = "fold"
    for tenure in tenures:
        by = f"{tenure.experiment} #{tenure.decision}" if tenure.experiment else "a person"
        table.add_row(moment(tenure.since_s), tenure.variant, by, tenure.reason or "-")
    return table


def weights_text(weights: Mapping[str, float]) -> str:
    """Who has which share, largest first."""
    ranked = sorted(weights.items(), key=lambda item: -item[1])
    return ", ".join(f"{arm} {share(weight)}" for arm, weight in ranked if weight > 0) or "-"


def _shrink(table: Table, width: int, *headings: str) -> None:
    """Narrow these columns, in this order, to what the others leave; Rich by itself would narrow all of them."""
    needed = {
        str(column.header): max(
            cell.cell_len if isinstance(cell, Text) else len(str(cell)) for cell in column.cells
        )
        for column in table.columns
    }
    excess = sum(needed.values()) + _GAP * len(needed) - width
    for heading in headings:
        column = next(column for column in table.columns if column.header == heading)
        column.width = max(len(heading), needed[heading] - max(0, excess))
        excess -= needed[heading] - column.width


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    return table
