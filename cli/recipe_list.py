"""Every engine, recipe and device as a list: what each is, whether it runs here, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.variants.availability import available_recipes
from anabranch.variants.llm.recipes import LANGUAGE_SPECS, missing_here


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRow:
    """One combination.

    Attributes:
        runs_here: Whether this machine can build and serve it.
        what: What the recipe does.
        reason: Why it does not run here; empty where it does.
    """

    variant: str
    engine: str
    recipe: str
    device: str
    runs_here: bool
    what: str
    reason: str


def recipe_rows() -> list[RecipeRow]:
    """Every combination, those that run here first."""
    rows = [
        RecipeRow(
            variant=status.spec.name,
            engine=status.spec.engine.value,
            recipe=status.spec.recipe.name,
            device=status.spec.device.value,
            runs_here=status.runs_here,
            what=_first_sentence(type(status.spec.recipe).__doc__ or ""),
            reason=status.reason,
        )
        for status in available_recipes()
    ]
    return sorted([*rows, *_language_rows({row.variant for row in rows})], key=lambda row: not row.runs_here)


def _language_rows(known: set[str]) -> list[RecipeRow]:
    """What there is for language models alone."""
    return [
        RecipeRow(
            variant=spec.name,
            engine=spec.engine.value,
            recipe=spec.recipe.name,
            device=spec.device.value,
            runs_here=not missing_here(spec),
            what=f"Language models: {_first_sentence(type(spec.recipe).__doc__ or '')}",
            reason=missing_here(spec),
        )
        for spec in LANGUAGE_SPECS
        if spec.name not in known
    ]


def recipe_table(rows: Sequence[RecipeRow]) -> Table:
    """One row a combination; what runs here says what it is, the others why not."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("VARIANT", no_wrap=True)
    table.add_column("HERE", no_wrap=True)
    table.add_column("WHAT IT IS, OR WHY NOT", overflow="fold")
    for row in rows:
        if row.runs_here:
            table.add_row(row.variant, "yes", row.what)
        else:
            table.add_row(row.variant, "no", row.reason, style="dim")
    return table


def parse_drop(text: str) -> float | None:
    """A largest loss of accuracy as a share: `0.5%` is 0.005; None where nothing was given."""
    if not text:
        return None
    number = text.removesuffix("%")
    try:
        value = float(number) / 100
    except ValueError:
        value = 0.0
    if number == text or not 0 < value < 1:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"--max-accuracy-drop {text!r} must be a percentage between 0 and 100",
            "write --max-accuracy-drop 0.5% for half a point",
        )
    return value


def _first_sentence(text: str) -> str:
    return text.strip().split("\n", 1)[0]
