"""Take a `torch.export` program as a model: read its archive without trusting it, and turn it into an ONNX file.

`torch.export.load` unpickles sample inputs and whatever an archive marks as pickled, evaluates symbolic sizes as Python, and
looks operators up by any dotted name. So an archive is read here first, and only what is data goes on to torch: tensors
as bytes, a graph of torch's own operators, sizes that are arithmetic. Everything else is refused or left out.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anabranch.variants.errors import VariantError
from anabranch.variants.models import Progress
from anabranch.variants.runtime import zeros
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.tensors import Signature

if TYPE_CHECKING:
    from torch.export import ExportedProgram

SUFFIX = ".pt2"
_OPERATORS = re.compile(r"torch\.ops\.(aten|prims|higher_order)\.\w+(\.\w+)?")
_SIZE_OPERATORS = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem)"
)
_SYMBOL = re.compile(r"[a-z]+[0-9]+")
_FUNCTIONS = frozenset(
    [
        "Symbol",
        "Integer",
        "Float",
        "Rational",
        "Add",
        "Mul",
        "Pow",
        "Mod",
        "Max",
        "Min",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "FloorDiv",
        "CeilDiv",
        "PythonMod",
        "CleanDiv",
        "IntTrueDiv",
    ]
)
_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Name, ast.Constant, ast.Call, ast.keyword),
    *(ast.operator, ast.unaryop, ast.cmpop, ast.expr_context),
)
_MOST_JSON_BYTES = 64 << 20
_SEED = 20_261_128
_TOLERANCE = 1e-3
_ADVICE = "export it to ONNX yourself: torch.onnx.export(model, inputs, 'model.onnx', dynamo=True)"


def onnx_of_program(path: Path, target: Path, progress: Progress) -> None:
    """Write the ONNX graph of a program.

    Args:
        path: A `.pt2` file that `torch.export.save` wrote.
        target: The `.onnx` file.
        progress: Takes a line before each part of the work.

    Raises:
        VariantError: The archive holds more than data, or torch cannot read or translate it; with the reason.
    """
    try:
        import onnxscript  # noqa: F401  # torch's exporter asks for it in the middle of its work
        import torch
    except ImportError as error:
        raise VariantError(
            f"{path} is a torch.export program, and reading it needs {error.name}: pip install 'anabranch[torch]'"
        ) from error
    progress(f"read {path.name}")
    program = read_program(path)
    progress(f"translate {path.name} to ONNX")
    try:
        exported = torch.onnx.export(program, (), dynamo=True, verbose=False)
        assert exported is not None, "a program is translated to a graph"
        exported.save(str(target))
    except Exception as error:  # whatever an exporter of a hundred operators raises
        raise VariantError(f"torch cannot translate {path} to ONNX ({_short(error)}): {_ADVICE}") from error
    _compare(path, program, OnnxSession(target))


def _compare(path: Path, program: "ExportedProgram", session: OnnxSession) -> None:
    """Both must say the same to one request; where inner sizes are open no request is known to fit."""
    import torch

    if any(-1 in spec.shape[1:] for spec in session.inputs):
        return
    feeds = zeros(Signature(name="inputs", inputs=session.inputs))
    draws = np.random.default_rng(_SEED)
    feeds = {
        name: draws.normal(size=array.shape).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in feeds.items()
    }
    names = program.graph_signature.user_inputs
    with torch.no_grad():
        said = program.module()(*(torch.from_numpy(feeds[str(name)]) for name in names))
    expected = [said] if isinstance(said, torch.Tensor) else list(said)
    found = [session.run(feeds)[spec.name] for spec in session.outputs]
    for wanted, got in zip(expected, found, strict=True):
        if not np.allclose(wanted.numpy(), got, rtol=_TOLERANCE, atol=_TOLERANCE):
            far = float(np.abs(wanted.numpy() - got).max())
            raise VariantError(f"the ONNX graph of {path} differs from the program by {far:.3g}: {_ADVICE}")


def read_program(path: Path) -> "ExportedProgram":
    """The program of an archive, by its data alone.

    Raises:
        VariantError: The archive holds more than data, or torch does not read it.
    """
    import torch

    clean = clean_archive(path)
    try:
        return torch.export.load(clean)
    except Exception as error:  # torch raises many classes
        raise VariantError(f"torch {torch.__version__} does not read {path}: {_short(error)}") from error


def clean_archive(path: Path) -> io.BytesIO:
    """The archive with tensors, graph and sizes, and with nothing that runs when it is read.

    Raises:
        VariantError: It is no such archive, or holds something that is not data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _cleaned(path, archive)
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise VariantError(f"{path} is no torch.export program: {_short(error)}") from error


def _cleaned(path: Path, archive: zipfile.ZipFile) -> io.BytesIO:
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise VariantError(f"{path} holds two records of one name: torch.export.save writes no such file")
    inner = {name.partition("/")[2]: name for name in names}
    graphs = [name for name in inner if name.startswith("models/") and name.endswith(".json")]
    if len(graphs) != 1:
        raise VariantError(
            f"{path} holds {len(graphs)} programs, must hold one: save it by torch.export.save of torch 2.8 or later"
        )
    compiled = next((name for name in inner if name.startswith("data/aotinductor")), None)
    if compiled is not None:
        raise VariantError(
            f"{path} holds compiled code ({compiled}), which is never loaded: save the program itself"
        )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as written:
        for short, name in inner.items():
            written.writestr(name, _record(path, short, archive, name))
    target.seek(0)
    return target


def _record(path: Path, short: str, archive: zipfile.ZipFile, name: str) -> bytes:
    if short.startswith("data/sample_inputs/"):
        return b""  # A pickle, and of no use: torch goes on without.
    if not short.endswith(".json"):
        return archive.read(name)
    if archive.getinfo(name).file_size > _MOST_JSON_BYTES:
        raise VariantError(
            f"{path}: {short} is larger than {_MOST_JSON_BYTES >> 20} MiB: no model's graph is"
        )
    content = json.loads(archive.read(name))
    if short.startswith("models/"):
        content["guards_code"] = []  # Python source that checks inputs; the graph says their shapes.
        _check_graph(path, content)
    elif short.endswith("_config.json"):
        _check_tensors(path, content)
    return json.dumps(content).encode()


def _check_tensors(path: Path, content: Mapping[str, Any]) -> None:
    for tensor, entry in content["config"].items():
        if entry.get("use_pickle") is not False:
            raise VariantError(f"{path}: {tensor} is kept as a pickle, which is never loaded: {_ADVICE}")


def _check_graph(path: Path, content: Any) -> None:
    for key, value, owner in _fields(content):
        match key:
            case "target" if not (_OPERATORS.fullmatch(value) or _SIZE_OPERATORS.fullmatch(value)):
                raise VariantError(f"{path} calls {value!r}, which is no operator of torch's own: {_ADVICE}")
            case "metadata" if isinstance(value, dict):
                owner[key] = {}  # Where each node came from: names that torch would look up.
            case "expr_str" if not _is_arithmetic(value):
                raise VariantError(f"{path} has the size {value!r}, which is no arithmetic: {_ADVICE}")
            case "as_custom_obj" | "class_fqn" | "custom_objs":
                raise VariantError(f"{path} holds an object of a class of its own ({value!r}): {_ADVICE}")


def _fields(content: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Every field of every object of a document."""
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            for key, value in list(part.items()):
                yield key, value, part
                waiting.append(part[key])
        elif isinstance(part, list):
            waiting.extend(part)


def _is_arithmetic(text: Any) -> bool:
    """Whether a symbolic size is numbers, symbols and functions of them."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, TypeError, ValueError):
        return False
    return all(_is_allowed(node) for node in ast.walk(tree))


def _is_allowed(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return name in _FUNCTIONS
        case ast.Name(id=name):
            return name in _FUNCTIONS or _SYMBOL.fullmatch(name) is not None
        case ast.Constant(value=str(value)):
            return _SYMBOL.fullmatch(value) is not None
        case ast.Constant(value=value):
            return isinstance(value, (bool, int, float))
        case ast.Call():
            return False
        case _:
            return isinstance(node, _ARITHMETIC)


def _short(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
