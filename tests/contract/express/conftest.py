"""Every test runs on both paths: with the express path, and with Python alone."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anabranch.wire.express import has_express

Router = Any


@pytest.fixture(scope="session")
def assembly(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).with_name("assembly.py"))


@pytest.fixture(scope="session")
def scripted(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).with_name("scripted_server.py"))


@pytest.fixture(params=["express", "python"])
def start(
    request: pytest.FixtureRequest, assembly: ModuleType, scripted: ModuleType
) -> Iterator[Callable[..., Router]]:
    """Start assemblies; when a test has ended, nothing is left in them."""
    if request.param == "express" and not has_express():
        assert os.environ.get("ANABRANCH_NATIVE") == "off", "nothing is compiled here: it takes a C compiler"
        pytest.skip("ANABRANCH_NATIVE=off: all is Python's, as asked")
    running: list[Router] = []

    def new(**options: Any) -> Router:
        running.append(assembly.Router(scripted, request.param == "express", **options))
        return running[-1]

    yield new
    try:
        for router in running:
            router.check()
    finally:
        for router in running:
            router.stop()


@pytest.fixture
def router(start: Callable[..., Router]) -> Router:
    return start()


@pytest.fixture(scope="session")
def raw(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).with_name("raw_client.py"))


@pytest.fixture(scope="session")
def frames(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).parents[1] / "wire" / "frames.py")


@pytest.fixture(scope="session")
def local(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).with_name("local_variant.py"))


@pytest.fixture(scope="session")
def grpcio(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).with_name("grpcio_server.py"))
