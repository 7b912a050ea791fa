"""Small operations on ONNX graphs: load with every file, name every node, show inner tensors."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import onnx
from onnx.external_data_helper import uses_external_data

from anabranch.variants.errors import VariantError


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a graph with its external data, check it, and name its unnamed nodes.

    Raises:
        VariantError: The file is missing, or no valid ONNX model.
    """
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, the checker and the file system each raise their own
        raise VariantError(f"{path} is not a valid ONNX model: {error}") from error
    taken = {node.name for node in model.graph.node if node.name}
    for index, node in enumerate(model.graph.node):
        if not node.name:
            name = f"{node.op_type}.{index}"
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name
    return model


def external_files(path: Path) -> tuple[str, ...]:
    """The files beside a graph that hold its tensors, relative to the graph's folder.

    Raises:
        VariantError: The file is no ONNX model, or a location leaves the graph's folder.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises its own class
        raise VariantError(f"{path} is not a valid ONNX model: {error}") from error
    found: set[str] = set()
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            found.update(entry.value for entry in tensor.external_data if entry.key == "location")
    for location in found:
        inner = PurePosixPath(location)
        if inner.is_absolute() or ".." in inner.parts:
            raise VariantError(f"{path} keeps tensors at {location!r}: they must lie beside the model")
    return tuple(sorted(found))


def with_extra_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> bytes:
    """The graph's bytes with inner tensors as outputs too, where it has them.

    Raises:
        VariantError: The graph is too large to hand over in memory.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {name for node in copy.graph.node for name in node.output}
    shown = {value.name for value in copy.graph.output} | {value.name for value in copy.graph.input}
    for tensor in tensors:
        if tensor in present and tensor not in shown:
            shown.add(tensor)
            copy.graph.output.append(onnx.ValueInfoProto(name=tensor))
    try:
        return copy.SerializeToString()
    except ValueError as error:
        raise VariantError(f"the graph cannot be held in memory as one message (2 GB): {error}") from error
