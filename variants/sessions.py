"""Run an ONNX file: one session, arrays in, arrays out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, assert_never

import numpy as np

from anabranch.variants.availability import installed_runtimes, two_runtimes
from anabranch.variants.errors import VariantError, VariantRunError
from anabranch.variants.recipes import Device
from anabranch.variants.tensors import Array, Datatype, TensorSpec

try:
    import onnxruntime
except ImportError as error:
    raise VariantError(
        "onnxruntime is not installed: pip install 'anabranch[cpu]', or 'anabranch[gpu]' where there is CUDA"
    ) from error

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
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
    """An ONNX Runtime session that leaves the cores alone while it waits.

    Args:
        model: A file, or the bytes of one.
        threads: Threads that share one call's work, at least 1.
        device: Where it runs. ONNX Runtime falls back to the CPU without a word: here that is refused.
        uses_tf32: Whether FP32 products on a GPU may round their factors to TF32.
        trace: Where a trace of every operator begins its file names, until `end_trace`; None for none.

    Raises:
        VariantError: ONNX Runtime does not accept the model, or the device is missing.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int = 1,
        device: Device = Device.CPU,
        uses_tf32: bool = False,
        trace: Path | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        if trace is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(trace)
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Spinning threads would take the cores from the router's own loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = str(model) if isinstance(model, Path) else model
        where = model if isinstance(model, Path) else "the built graph"
        try:
            self._session = onnxruntime.InferenceSession(
                source, options, providers=_providers(device, uses_tf32=uses_tf32)
            )
        except Exception as error:  # the binding raises its own classes, all below Exception
            raise VariantError(f"ONNX Runtime does not load {where}: {error}") from error
        _require_device(self._session.get_providers()[0], device, where)
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._text = frozenset(spec.name for spec in self.inputs if spec.datatype is Datatype.BYTES)

    def end_trace(self) -> Path:
        """Write the trace that was asked for, and answer where."""
        return Path(self._session.end_profiling())

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


def _providers(device: Device, *, uses_tf32: bool) -> list[str | tuple[str, dict[str, str]]]:
    match device:
        case Device.CPU:
            return [_CPU]
        case Device.CUDA:
            # Finds the CUDA libraries of pip packages; older releases of ONNX Runtime lack it.
            preload = getattr(onnxruntime, "preload_dlls", None)
            if preload is not None:
                preload()
            # Operators on shapes have no CUDA kernels: they stay on the CPU.
            return [(_CUDA, {"use_tf32": "1" if uses_tf32 else "0"}), _CPU]
        case _:
            assert_never(device)


def _require_device(provider: str, device: Device, where: object) -> None:
    """Refuse a session that fell back to another device.

    Raises:
        VariantError: The provider is not the device's.
    """
    wanted = _CUDA if device is Device.CUDA else _CPU
    if provider != wanted:
        raise VariantError(f"ONNX Runtime runs {where} with {provider}, must be {wanted}: {_repair(device)}")


def _repair(device: Device) -> str:
    """What to do about a device that ONNX Runtime does not use."""
    installed = installed_runtimes()
    if len(installed) > 1:
        return two_runtimes(installed)
    if device is Device.CUDA:
        return (
            "install a CUDA build (pip install 'anabranch[gpu]') with the driver and libraries that it names"
        )
    return "install onnxruntime"


def _spec(node: "onnxruntime.NodeArg") -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        # What skl2onnx makes of a classifier's probabilities unless it is told otherwise.
        advice = (
            "; with skl2onnx, export with options={'zipmap': False}" if node.type.startswith("seq(") else ""
        )
        raise VariantError(
            f"tensor {node.name!r} has type {node.type}, must be one of {', '.join(_DATATYPES)}{advice}"
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
