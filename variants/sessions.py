"""Run an ONNX file: one session, arrays in, arrays out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

from anabranch.variants.errors import VariantError, VariantRunError
from anabranch.variants.tensors import Array, Datatype, TensorSpec

_PROVIDERS = ["CPUExecutionProvider"]
_ERRORS_ONLY = 3
_DATATYPES = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}


class Session(Protocol):
    """What an engine offers: a blocking call that several threads may make at once."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every output.

        Raises:
            VariantRunError: The engine failed.
        """
        ...


class OnnxSession:
    """An ONNX Runtime session on the CPU that leaves the cores alone while it waits.

    Args:
        model: A file, or the bytes of one.
        threads: Threads that share one call's work, at least 1.

    Raises:
        VariantError: ONNX Runtime does not accept the model.
    """

    def __init__(self, model: Path | bytes, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Spinning threads would take the cores from the router's own loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = str(model) if isinstance(model, Path) else model
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=_PROVIDERS)
        except Exception as error:  # the binding raises its own classes, all below Exception
            where = model if isinstance(model, Path) else "the built graph"
            raise VariantError(f"ONNX Runtime does not load {where}: {error}") from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._text = frozenset(spec.name for spec in self.inputs if spec.datatype is Datatype.BYTES)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every output.

        Raises:
            VariantRunError: ONNX Runtime failed.
        """
        if self._text:
            feeds = {name: _decoded(array) if name in self._text else array for name, array in feeds.items()}
        try:
            results = self._session.run(self._names, feeds)
        except Exception as error:  # the binding raises its own classes, all below Exception
            raise VariantRunError(f"ONNX Runtime failed: {error}") from error
        return {
            spec.name: _encoded(result) if spec.datatype is Datatype.BYTES else result
            for spec, result in zip(self.outputs, results, strict=True)
        }


def _spec(node: "onnxruntime.NodeArg") -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise VariantError(
            f"tensor {node.name!r} has type {node.type}, must be one of {', '.join(_DATATYPES)}"
        )
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape)
    return TensorSpec(name=node.name, datatype=datatype, shape=shape)


def _decoded(array: Array) -> Array:
    """ONNX Runtime takes strings as `str`."""
    flat = [item.decode("utf-8", "surrogateescape") for item in array.ravel()]
    return np.array(flat, dtype=np.object_).reshape(array.shape)


def _encoded(array: Array) -> Array:
    flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
    return np.array(flat, dtype=np.object_).reshape(array.shape)
