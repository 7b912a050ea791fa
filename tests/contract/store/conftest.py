"""Every store, and the values that its tests keep in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anabranch.store.memory import MemoryStore
from anabranch.store.port import Store
from anabranch.store.sql import open_store

Document = dict[str, Any]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of every kind."""
    opened: Store = (
        MemoryStore() if request.param == "memory" else open_store(f"sqlite:///{tmp_path / 'store.db'}")
    )
    yield opened
    opened.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Where a database can be opened more than once."""
    return f"sqlite:///{tmp_path / 'shared.db'}"


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
