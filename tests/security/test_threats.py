"""`docs/security.md` names a test for every threat: each exists."""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "security.md"
NAMED = re.compile(r"`([a-z_/0-9]+\.py)(?:::(test_\w+))?`")


def functions_in(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def threats() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition("## Threats")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]


def test_every_threat_names_the_test_that_holds_it() -> None:
    assert len(threats()) > 20
    assert [line for line in threats() if not NAMED.search(line)] == []


def test_every_test_named_exists() -> None:
    missing = []
    for line in threats():
        for file, name in NAMED.findall(line):
            path = REPOSITORY / "tests" / file
            if not path.is_file() or (name and name not in functions_in(path)):
                missing.append(f"{file}::{name}")
    assert missing == []
