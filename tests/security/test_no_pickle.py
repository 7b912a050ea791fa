"""Nothing that runs code while it reads data is used to read data."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CODE = ("bandit", "store", "variants", "client", "wire", "router", "cli", "proto", "examples")
UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "jsonpickle",
}
UNSAFE_CALLS = ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec")


def files() -> list[Path]:
    found = [path for folder in CODE for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(found) > 300
    return found


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def says(call: ast.Call, name: str, value: object) -> bool:
    return any(
        keyword.arg == name and isinstance(keyword.value, ast.Constant) and keyword.value.value is value
        for keyword in call.keywords
    )


def problems(path: Path) -> Iterator[str]:
    """What a file does that it must not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            if name.partition(".")[0] in UNSAFE_MODULES:
                yield f"{at} imports {name}"
    for call, name in calls(tree):
        if name in ("np.load", "numpy.load") and not says(call, "allow_pickle", False):
            yield f"{at}:{call.lineno}: {name} without allow_pickle=False"
        if name == "torch.load" and not says(call, "weights_only", True):
            yield f"{at}:{call.lineno}: torch.load without weights_only=True"
        if name in UNSAFE_CALLS:
            yield f"{at}:{call.lineno}: {name}"


def test_no_file_loads_anything_unsafely() -> None:
    assert [problem for path in files() for problem in problems(path)] == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "import numpy as np\nnp.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "yaml.load(text)",
        "eval(text)",
    ],
)
def test_the_search_finds_what_it_is_for(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    assert list(problems(path))
