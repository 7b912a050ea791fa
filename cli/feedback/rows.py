"""Outcomes in files: CSV, JSON lines and Parquet, row by row, each an outcome or the reason why it is none."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.client.feedback import Outcome

KINDS: Final = ("label", "correct", "value")
"""Columns of which a row fills exactly one."""
_YES: Final = frozenset({"true", "yes", "1"})
_NO: Final = frozenset({"false", "no", "0"})
_BATCH_ROWS: Final = 10_000


class UnreadableFile(Exception):
    """A file is not of the kind that its name says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a file.

    Attributes:
        number: Counted from 1, without a header.
        outcome: What it says; None when it cannot be read.
        problem: Why not.
    """

    number: int
    outcome: Outcome | None = None
    problem: str = ""


def read_rows(path: Path, *, id_column: str, metric: str) -> Iterator[Row]:
    """The rows of a file, by the ending of its name: .csv, .jsonl or .ndjson, .parquet.

    Args:
        path: The file.
        id_column: Which column holds the assignment id.
        metric: For rows that name none.

    Raises:
        CommandFailed: It is of another kind, has not the columns, or Parquet cannot be read here.
    """
    match path.suffix.lower():
        case ".csv":
            found = _csv_rows(path, id_column)
        case ".jsonl" | ".ndjson":
            found = _json_rows(path)
        case ".parquet":
            found = _parquet_rows(path, id_column)
        case other:
            raise CommandFailed(
                ExitCode.BAD_INPUT,
                f"{path.name} ends with {other or 'nothing'!r}: .csv, .jsonl, .ndjson and .parquet are read",
            )
    number = 0
    try:
        for number, values in enumerate(found, 1):  # told when the file breaks off
            yield _row(number, values, id_column, metric)
    except (UnicodeDecodeError, csv.Error, UnreadableFile) as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"{path.name} cannot be read beyond row {number}: {error}",
            "rows up to there are taken, and once only: mend the file and import it again",
        ) from error


def _row(number: int, values: Mapping[str, Any] | str, id_column: str, metric: str) -> Row:
    if isinstance(values, str):
        return Row(number=number, problem=values)
    try:
        return Row(number=number, outcome=_outcome(values, id_column, metric))
    except ValueError as error:
        return Row(number=number, problem=str(error))


def _csv_rows(path: Path, id_column: str) -> Iterator[Mapping[str, Any] | str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        _check_columns(path, reader.fieldnames or (), id_column)
        for values in reader:
            # What is beyond the header's columns has no name.
            extra = values.pop(None, None)
            yield f"the row has {len(extra)} values more than the header" if extra else values


def _json_rows(path: Path) -> Iterator[Mapping[str, Any] | str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"the line is no JSON: {error}"
                continue
            yield values if isinstance(values, dict) else f"the line is no object: {line.strip()[:60]}"


def _parquet_rows(path: Path, id_column: str) -> Iterator[Mapping[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            "Parquet needs pyarrow",
            "pip install 'anabranch[parquet]'",
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, id_column)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from batch.to_pylist()
    except (ValueError, OSError) as error:
        # pyarrow's own errors are of these kinds.
        raise UnreadableFile(error) from error


def _check_columns(path: Path, names: Any, id_column: str) -> None:
    found = ", ".join(names) or "none"
    if id_column not in names:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"{path.name} has no column {id_column!r}, it has: {found}",
            "name the column of the assignment ids with --id-column",
        )
    if not any(kind in names for kind in KINDS):
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"{path.name} has none of the columns label, correct and value, it has: {found}",
        )


def _outcome(values: Mapping[str, Any], id_column: str, metric: str) -> Outcome:
    """The outcome of a row.

    Raises:
        ValueError: It has no id, or not exactly one outcome that can be read.
    """
    identifier = values.get(id_column)
    if not isinstance(identifier, str) or not identifier.strip():
        raise ValueError(f"{id_column} is empty: every row names the answer that it is about")
    given = {kind: value for kind in KINDS if _is_given(value := values.get(kind))}
    return Outcome(
        assignment_id=identifier.strip(),
        metric=str(values.get("metric") or metric),
        label=_label(given["label"]) if "label" in given else None,
        correct=_yes_or_no(given["correct"]) if "correct" in given else None,
        value=_number(given["value"]) if "value" in given else None,
    )


def _is_given(value: Any) -> bool:
    """Whether a cell is filled; a table of numbers marks an empty one by what is no number."""
    return value not in (None, "") and not (isinstance(value, float) and math.isnan(value))


def _label(value: Any) -> int:
    try:
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"label is {value!r}, must be the number of a class") from None


def _yes_or_no(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in _YES or text in _NO:
        return text in _YES
    raise ValueError(f"correct is {value!r}, must be one of {', '.join(sorted(_YES | _NO))}")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"value is {value!r}, must be a number") from None
