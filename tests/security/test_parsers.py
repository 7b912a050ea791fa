"""Every parser, given any bytes: it answers, or raises the error that it promises, and nothing else.

A short run of each is part of the suite; `python tests/security/parsers.py NAME SECONDS` goes on for as long as it is told.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings

FUZZ = Path(__file__).with_name("parsers.py")


@pytest.fixture(scope="module")
def parsers(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(FUZZ)


NAMES = (
    "assignment id",
    "control messages",
    "document",
    "Envoy's entries",
    "Envoy's record",
    "feedback message",
    "gguf",
    "gRPC framing",
    "identities",
    "inference message",
    "journal",
    "manifest",
    "rows of CSV",
    "rows of JSON",
    "rows of Parquet",
    "safetensors",
    "tensors",
    "token",
)


def test_every_parser_is_tried(parsers: ModuleType) -> None:
    assert tuple(sorted(parsers.PARSERS, key=str.lower)) == tuple(sorted(NAMES, key=str.lower))


@pytest.mark.parametrize("name", NAMES)
def test_any_bytes_are_parsed_or_refused(parsers: ModuleType, name: str, tmp_path: Path) -> None:
    parser = parsers.PARSERS[name]

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(parsers.near(parser.seeds))
    def holds(data: bytes) -> None:
        parser.try_it(data, tmp_path)

    holds()


def test_a_seed_is_what_its_parser_takes(parsers: ModuleType, tmp_path: Path) -> None:
    # But for those that nothing can be made to take without the rest of a system.
    for name, parser in parsers.PARSERS.items():
        taken = [parser.try_it(seed, tmp_path) for seed in parser.seeds]
        assert all(taken) == (name not in ("manifest", "token")), name
