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
_REQUIRES_POSTGRES = "ANABRANCH_REQUIRE_POSTGRES"
_left_out: list[str] = []


def _load(path: Path) -> ModuleType:
    """Load a file that is no test."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests of PostgreSQL out where there is none, unless it is required."""
    asking = [item for item in items if item.get_closest_marker("postgres")]
    if not asking or _load(_DATA / "postgres_server.py").find_programs():
        return
    if os.environ.get(_REQUIRES_POSTGRES):
        raise pytest.UsageError(f"{_REQUIRES_POSTGRES} is set, and PostgreSQL's server is not installed")
    _left_out.extend(item.nodeid for item in asking)
    config.hook.pytest_deselected(items=asking)
    items[:] = [item for item in items if item not in set(asking)]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was left out, where nobody can overlook it."""
    if _left_out:
        terminalreporter.section("NOT RUN: PostgreSQL is not installed", red=True, bold=True)
        terminalreporter.line(
            f"{len(_left_out)} tests need its server, the first is {_left_out[0]}. "
            "Install it (Debian: apt-get install postgresql; it need not run) and test again."
        )


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
