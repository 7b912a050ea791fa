"""A person's labelled texts: CSV, JSON Lines or Parquet with the columns `text` and `label`, or a function that yields them."""

import csv
import importlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anabranch.variants.errors import VariantError

_TEXT, _LABEL = "text", "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """One text; its label is 0 or 1."""

    text: str
    label: int


def labelled_texts(source: str) -> tuple[LabelledText, ...]:
    """Read texts of two classes; whatever the labels are, the smaller in sorted order becomes 0.

    Args:
        source: A `.csv`, `.jsonl` or `.parquet` file with the columns `text` and `label`, or `module:function`, which
            yields pairs of text and label.

    Raises:
        VariantError: The source cannot be read, a row lacks a column, or the labels are not of two classes.
    """
    rows = list(_rows(source))
    classes = sorted({label for _, label in rows})
    if len(classes) != 2:
        shown = ", ".join(classes[:5]) or "none"
        raise VariantError(
            f"{source} has {len(classes)} classes ({shown}), must have 2: the head tells two apart"
        )
    return tuple(LabelledText(text=text, label=classes.index(label)) for text, label in rows)


def _rows(source: str) -> Iterable[tuple[str, str]]:
    path = Path(source)
    if path.is_file():
        for number, row in enumerate(_records(path), start=1):
            if row.get(_TEXT) is None or row.get(_LABEL) is None:
                raise VariantError(
                    f"{source}, row {number} has the columns {sorted(row)}, must have text and label"
                )
            yield str(row[_TEXT]), str(row[_LABEL])
        return
    if ":" not in source:
        raise VariantError(f"no file {source}: give a .csv, .jsonl or .parquet file, or MODULE:FUNCTION")
    for item in imported(source)():
        if not isinstance(item, tuple) or len(item) != 2:
            raise VariantError(f"{source} yields {type(item).__name__}, must yield pairs of text and label")
        yield str(item[0]), str(item[1])


def _records(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        match path.suffix.lower():
            case ".csv":
                with path.open(newline="", encoding="utf-8") as file:
                    yield from csv.DictReader(file)
            case ".jsonl":
                with path.open(encoding="utf-8") as file:
                    yield from (json.loads(line) for line in file if line.strip())
            case ".parquet":
                yield from _parquet(path)
            case other:
                raise VariantError(f"{path} ends with {other!r}, must end with .csv, .jsonl or .parquet")
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise VariantError(f"{path} cannot be read: {error}") from error


def _parquet(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        from pyarrow import parquet  # type: ignore[import-not-found,unused-ignore]  # optional: a person's own choice
    except ImportError:
        raise VariantError(
            f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or convert to CSV"
        ) from None
    yield from parquet.read_table(path, columns=[_TEXT, _LABEL]).to_pylist()


def imported(path: str) -> Any:
    """The object at an import path `module:name`; modules beside the working directory are found too.

    Raises:
        VariantError: There is no such module or name.
    """
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise VariantError(f"{path}: cannot import {module_name}: {error}") from error
    except AttributeError:
        raise VariantError(f"{path}: module {module_name} has no {name!r}") from None
