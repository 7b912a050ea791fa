"""One matrix product by every algorithm that cuBLASLt offers for it: torch takes the first."""

import ctypes
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import partial
from typing import Any

import torch
from torch import Tensor

_SPACE_BYTES = 64 << 20
_MOST = 40
_KINDS = {torch.float16: 2, torch.float8_e4m3fn: 28}
_FP32, _SUMS_IN_FP32, _SPACE_WISH = 0, 68, 1


class Then(IntEnum):
    """What follows the product inside its kernel."""

    BIAS = 4
    BIAS_AND_GELU = 36


class _Setting(IntEnum):
    TRANSPOSE_FIRST = 3
    THEN = 7
    BIAS = 8
    SCALE_FIRST = 17
    SCALE_SECOND = 18
    FAST_SUMS = 25


class _Choice(ctypes.Structure):
    _fields_ = (("algorithm", ctypes.c_uint64 * 8), ("space", ctypes.c_size_t), ("rest", ctypes.c_int * 6))


def products(weight: Tensor, source: Tensor, bias: Tensor, then: Then) -> Iterator[Callable[[], None]]:
    """The product `source @ weight.T + bias` in FP16, by one algorithm after the other; a call may be refused.

    Args:
        weight: FP16 or E4M3, shape (outputs, inputs).
        source: Of the same dtype, shape (rows, inputs).
        bias: FP16, shape (outputs,).
        then: What follows.

    Raises:
        RuntimeError: The library refused.
    """
    library = ctypes.CDLL(f"libcublasLt.so.{str(torch.version.cuda).split('.')[0]}")

    def made(function: str, *given: Any) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        _check(library[function](ctypes.byref(handle), *given))
        return handle

    (outputs, inputs), rows = weight.shape, len(source)
    one = torch.ones((), device="cuda")
    space = torch.empty(_SPACE_BYTES, dtype=torch.uint8, device="cuda")
    result = torch.empty(rows, outputs, dtype=torch.float16, device="cuda")
    library_handle = made("cublasLtCreate")
    product = made("cublasLtMatmulDescCreate", _SUMS_IN_FP32, _FP32)
    settings: dict[_Setting, Any] = {
        _Setting.TRANSPOSE_FIRST: ctypes.c_int32(1),
        _Setting.THEN: ctypes.c_uint32(then),
        _Setting.BIAS: _pointer(bias),
    }
    if weight.dtype is torch.float8_e4m3fn:
        settings |= {_Setting.SCALE_FIRST: _pointer(one), _Setting.SCALE_SECOND: _pointer(one)}
        settings[_Setting.FAST_SUMS] = ctypes.c_int8(1)
    for setting, value in settings.items():
        size = ctypes.c_size_t(ctypes.sizeof(value))
        _check(library.cublasLtMatmulDescSetAttribute(product, int(setting), ctypes.byref(value), size))

    def layout(dtype: torch.dtype, height: int, width: int) -> ctypes.c_void_p:
        sizes = ctypes.c_uint64(height), ctypes.c_uint64(width), ctypes.c_int64(height)
        return made("cublasLtMatrixLayoutCreate", _KINDS[dtype], *sizes)

    first, second = layout(weight.dtype, inputs, outputs), layout(source.dtype, inputs, rows)
    third = layout(result.dtype, outputs, rows)
    wish, bytes_ = made("cublasLtMatmulPreferenceCreate"), ctypes.c_uint64(_SPACE_BYTES)
    wished = wish, _SPACE_WISH, ctypes.byref(bytes_), ctypes.c_size_t(8)
    _check(library.cublasLtMatmulPreferenceSetAttribute(*wished))
    choices, count = (_Choice * _MOST)(), ctypes.c_int()
    asked = library_handle, product, first, second, third, third, wish, _MOST, choices, ctypes.byref(count)
    _check(library.cublasLtMatmulAlgoGetHeuristic(*asked))
    alpha, beta = ctypes.c_float(1), ctypes.c_float(0)

    def multiply(choice: _Choice) -> None:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        factors = ctypes.byref(alpha), _pointer(weight), first, _pointer(source), second
        results = ctypes.byref(beta), _pointer(result), third, _pointer(result), third
        how = ctypes.byref(choice.algorithm), _pointer(space), ctypes.c_size_t(_SPACE_BYTES), stream
        _check(library.cublasLtMatmul(library_handle, product, *factors, *results, *how))

    for choice in choices[: count.value]:
        yield partial(multiply, choice)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"cuBLASLt says {status}")
