"""What the shell completes: names of experiments, models and variants, read without loading the store.

A shell waits for this at every tab: names come from SQLite and from folders by the standard library alone. Whatever goes
wrong completes nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import typer

from anabranch.cli.places import DEFAULT_MODELS, DEFAULT_STORE, SQLITE

_BUSY_S = 0.5


def complete_name(context: typer.Context, incomplete: str) -> list[str]:
    """Names of experiments."""
    return _beginning(incomplete, (name for name, _ in _experiments(context)))


def complete_candidate(context: typer.Context, incomplete: str) -> list[str]:
    """Candidates of the experiment that was named before."""
    named = context.params.get("name")
    found = [candidates for name, candidates in _experiments(context) if name == named]
    return _beginning(incomplete, found[0] if found else ())


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Models that are built."""
    return _beginning(incomplete, _folders(_models(context)))


def complete_variant(context: typer.Context, incomplete: str) -> list[str]:
    """Variants of the model that was named before."""
    model = context.params.get("model")
    return _beginning(incomplete, _folders(_models(context) / str(model)) if model else ())


def complete_baseline(context: typer.Context, incomplete: str) -> list[str]:
    """MODEL=VARIANT of everything that is built."""
    root = _models(context)
    pairs = (f"{model}={variant}" for model in _folders(root) for variant in _folders(root / model))
    return _beginning(incomplete, pairs)


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def _models(context: typer.Context) -> Path:
    return Path(context.params.get("models") or DEFAULT_MODELS)


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return [child.name for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")]


def _experiments(context: typer.Context) -> list[tuple[str, list[str]]]:
    """Name and candidates of every experiment; nothing for a database server, which a tab should not wait for."""
    url = str(context.params.get("store") or DEFAULT_STORE)
    path = Path(url.removeprefix(SQLITE))
    if not url.startswith(SQLITE) or not path.is_file():
        return []
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
        ) as file:
            rows = file.execute("SELECT name, document FROM experiment").fetchall()
        return [(name, list(json.loads(document)["spec"]["candidates"])) for name, document in rows]
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return []
