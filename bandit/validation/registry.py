"""All cells of the validation suite, in the order of their rows, and how each is seeded and run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from anabranch.bandit.validation import (
    best_arm,
    change_points,
    courses,
    coverage,
    dependent,
    drifting,
    feasible_arm,
    golden,
    guarding,
    heavy_tails,
    late_labels,
    metamorphic,
    mirrored,
    mismatch,
    near_tie,
    off_policy,
    performance,
    quantile_ratios,
    splits,
    sticky,
    unsteady,
)
from anabranch.bandit.validation.checks import Cell, Check, Trial

_MODULES = (
    best_arm,
    change_points,
    courses,
    coverage,
    dependent,
    drifting,
    feasible_arm,
    golden,
    guarding,
    heavy_tails,
    late_labels,
    metamorphic,
    mirrored,
    mismatch,
    near_tie,
    off_policy,
    performance,
    quantile_ratios,
    splits,
    sticky,
    unsteady,
)


class Form(StrEnum):
    """How thoroughly the suite is run."""

    LONG = "long"  # the replications that the documented results rest on
    SHORT = "short"  # a minute or two: the part that a test suite can afford


def _number(row: str) -> tuple[str, int]:
    """Promises in their order, then the scenarios."""
    return ("" if row[0] == "V" else row[0], int(row[1:]))


CELLS: Final[tuple[Cell, ...]] = tuple(
    sorted((cell for module in _MODULES for cell in module.CELLS), key=lambda cell: _number(cell.row))
)
ROWS: Final[tuple[str, ...]] = tuple(dict.fromkeys(cell.row for cell in CELLS))


def chosen(form: Form, rows: Iterable[str] = ()) -> tuple[Cell, ...]:
    """The cells of a form.

    Args:
        form: long or short.
        rows: numbers of the rows wanted; none means all.

    Raises:
        ValueError: when a row does not exist.
    """
    wanted = set(rows)
    unknown = sorted(wanted - set(ROWS))
    if unknown:
        raise ValueError(f"rows {unknown} do not exist: the suite has {', '.join(ROWS)}")
    return tuple(
        cell for cell in CELLS if replications(cell, form) > 0 and (not wanted or cell.row in wanted)
    )


def replications(cell: Cell, form: Form) -> int:
    """How often a cell is repeated in a form; 0 when it is left out."""
    return cell.long if form is Form.LONG else cell.short


def run_cell(
    key: str,
    form: Form,
    seed: int,
    *,
    clock: Callable[[], float],
    reference: Mapping[str, Any] | None = None,
) -> tuple[Check, ...]:
    """Run one cell; the same key, form and seed give the same checks, whatever else is run.

    Args:
        key: of the cell.
        form: long or short.
        seed: of the whole suite.
        clock: seconds from a steady clock, for the rows that measure speed.
        reference: reference values of the golden row, when they are there.
    """
    cell = next(cell for cell in CELLS if cell.key == key)
    digest = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
    rng = np.random.default_rng([seed, digest])
    return cell.run(Trial(rng=rng, runs=replications(cell, form), clock=clock, reference=reference))
