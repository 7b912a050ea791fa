"""What tests of every kind share."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run: a red run is a change's doing. HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("search")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

_DATA = Path(__file__).parent / "data"
_left_out: dict[str, list[str]] = {}


def _load(path: Path) -> ModuleType:
    """Load a file that is no test."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _why_no_postgres() -> str:
    if _load(_DATA / "postgres_server.py").find_programs():
        return ""
    return "PostgreSQL's server is not installed (Debian: apt-get install postgresql; it need not run)"


def _why_no_namespaces() -> str:
    found: str = _load(_DATA / "network.py").why_not()
    return found


_NEEDS = {
    "postgres": ("ANABRANCH_REQUIRE_POSTGRES", _why_no_postgres),
    "namespaces": ("ANABRANCH_REQUIRE_NAMESPACES", _why_no_namespaces),
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests out that need what this machine lacks, unless it is required."""
    for marker, (required, why_not) in _NEEDS.items():
        asking = [item for item in items if item.get_closest_marker(marker)]
        if not asking or not (reason := why_not()):
            continue
        if os.environ.get(required):
            raise pytest.UsageError(f"{required} is set: {reason}")
        _left_out.setdefault(reason, []).extend(item.nodeid for item in asking)
        config.hook.pytest_deselected(items=asking)
        items[:] = [item for item in items if item not in set(asking)]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was left out, where nobody can overlook it."""
    for reason, left_out in _left_out.items():
        terminalreporter.section(f"NOT RUN: {len(left_out)} tests", red=True, bold=True)
        terminalreporter.line(f"{reason}. The first is {left_out[0]}.")


@pytest.fixture(scope="session")
def load_module() -> Callable[[Path], ModuleType]:
    """Tests do not import each other: what they share beside fixtures is loaded by its path."""
    return _load


@pytest.fixture(scope="session")
def digits_module() -> ModuleType:
    return _load(_DATA / "digits_model.py")


@pytest.fixture(scope="session")
def digits(digits_module: ModuleType) -> Any:
    """The images and their classes."""
    return digits_module.load_digits()


@pytest.fixture(scope="session")
def new_postgres() -> Iterator[Callable[[], Any]]:
    """Starts PostgreSQL servers of a test's own, which it may stop; mark the test `postgres`."""
    module = _load(_DATA / "postgres_server.py")
    running: list[Any] = []

    def start() -> Any:
        running.append(module.PostgresServer(module.find_programs()))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture(scope="session")
def postgres(new_postgres: Callable[[], Any]) -> Any:
    """The PostgreSQL server that tests share, each with a database of its own."""
    return new_postgres()


@pytest.fixture(scope="session")
def postgres_template(postgres: Any) -> str:
    """A database with all tables, and nothing in them, to make others from."""
    from anabranch.store.sql import open_store

    name: str = postgres.new_database()
    open_store(postgres.url(name)).close()
    return name


@pytest.fixture
def postgres_url(postgres: Any, postgres_template: str) -> Iterator[str]:
    """The URL of a fresh database with all tables."""
    name = postgres.new_database(postgres_template)
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture
def empty_postgres_url(postgres: Any) -> Iterator[str]:
    """The URL of a database without tables."""
    name = postgres.new_database()
    yield postgres.url(name)
    postgres.drop_database(name)
