"""Every store, and the values that its tests keep in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anabranch.store.memory import MemoryStore
from anabranch.store.port import Store
from anabranch.store.sql import open_store

Document = dict[str, Any]


POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)


@pytest.fixture(params=["memory", "sqlite", POSTGRES])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of every kind."""
    opened: Store = (
        MemoryStore() if request.param == "memory" else open_store(_url(request, request.param, tmp_path))
    )
    yield opened
    opened.close()


@pytest.fixture(params=["sqlite", POSTGRES])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database of every kind can be opened more than once."""
    return _url(request, request.param, tmp_path)


def _url(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{folder / 'store.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def write_document() -> Callable[..., Document]:
    """Writes small documents: by name, model and traffic share."""

    def write(name: str = "exp", model: str = "m", weight: int = 10) -> Document:
        return {
            "apiVersion": "anabranch/v1",
            "kind": "Experiment",
            "metadata": {"name": name},
            "spec": {
                "model": model,
                "baseline": "base",
                "candidates": ["a", "b"],
                "metrics": [
                    {
                        "name": "accuracy",
                        "source": "feedback.correct",
                        "role": "guardrail",
                        "nonInferiorityMargin": 0.05,
                    },
                    {"name": "errors", "source": "error", "role": "guardrail", "max": 0.1},
                ],
                "steps": [{"setWeight": weight}, {"analysis": {}}],
            },
        }

    return write
