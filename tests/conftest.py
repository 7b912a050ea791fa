"""What tests of every kind share."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load(path: Path) -> ModuleType:
    """Load a file that is no test."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_module() -> Callable[[Path], ModuleType]:
    """Tests do not import each other: what they share beside fixtures is loaded by its path."""
    return _load


@pytest.fixture(scope="session")
def digits_module() -> ModuleType:
    return _load(Path(__file__).parent / "data" / "digits_model.py")


@pytest.fixture(scope="session")
def digits(digits_module: ModuleType) -> Any:
    """The images and their classes."""
    return digits_module.load_digits()
