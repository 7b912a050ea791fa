"""Tensors as clients see them: names, Open Inference Protocol datatypes and shapes, and whether arrays fit them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import VariantInputError

Array: TypeAlias = NDArray[Any]
Request: TypeAlias = Mapping[str, Array]

# A dimension of any size.
ANY = -1


class Datatype(StrEnum):
    """The protocol's datatypes that numpy can hold; BYTES is an object array of `bytes`."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype that carries this datatype."""
        return _DTYPES[self]


_DTYPES: dict[Datatype, np.dtype[Any]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype(np.uint8),
    Datatype.UINT16: np.dtype(np.uint16),
    Datatype.UINT32: np.dtype(np.uint32),
    Datatype.UINT64: np.dtype(np.uint64),
    Datatype.INT8: np.dtype(np.int8),
    Datatype.INT16: np.dtype(np.int16),
    Datatype.INT32: np.dtype(np.int32),
    Datatype.INT64: np.dtype(np.int64),
    Datatype.FP16: np.dtype(np.float16),
    Datatype.FP32: np.dtype(np.float32),
    Datatype.FP64: np.dtype(np.float64),
    Datatype.BYTES: np.dtype(np.object_),
}
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}


def datatype_of(dtype: np.dtype[Any]) -> Datatype:
    """The protocol's name of a numpy dtype.

    Raises:
        VariantInputError: The protocol has no such datatype.
    """
    found = _DATATYPES.get(dtype)
    if found is None:
        allowed = ", ".join(str(known) for known in _DTYPES.values())
        raise VariantInputError(f"dtype {dtype} has no datatype in the protocol: use one of {allowed}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor's name, datatype and shape, where -1 is a dimension of any size."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    @property
    def batched(self) -> bool:
        """Whether rows of several requests can be joined along the first dimension."""
        return bool(self.shape) and self.shape[0] == ANY

    def mismatch(self, array: Array) -> str | None:
        """Why an array is not this tensor, as the end of a sentence about it; None when it is."""
        if array.dtype != self.datatype.dtype:
            return f"has dtype {array.dtype}, must be {self.datatype} ({self.datatype.dtype})"
        shape = array.shape
        if len(shape) != len(self.shape) or any(
            want not in (ANY, got) for want, got in zip(self.shape, shape, strict=True)
        ):
            return f"has shape {list(shape)}, must be {list(self.shape)} (-1 is any size)"
        if 0 in shape:
            return f"has shape {list(shape)}, must hold at least one element"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One set of inputs that a model accepts."""

    name: str
    inputs: tuple[TensorSpec, ...]

    @property
    def batched(self) -> bool:
        """Whether requests with this signature can share a batch."""
        return all(spec.batched for spec in self.inputs)

    def check(self, request: Request) -> int:
        """Refuse a request that does not fit; return its rows (1 where the inputs are not batched).

        Raises:
            VariantInputError: An array does not fit its tensor, or two inputs differ in rows.
        """
        for spec in self.inputs:
            problem = spec.mismatch(request[spec.name])
            if problem is not None:
                raise VariantInputError(f"input {spec.name!r} {problem}")
        if not self.batched:
            return 1
        first = self.inputs[0]
        rows = int(request[first.name].shape[0])
        for spec in self.inputs[1:]:
            other = request[spec.name].shape[0]
            if other != rows:
                raise VariantInputError(
                    f"input {spec.name!r} has {other} rows and {first.name!r} has {rows}: send as many of each"
                )
        return rows


@dataclass(frozen=True, slots=True)
class RequestCheck:
    """The check of a set of signatures, prepared for the request path: a good request costs about a microsecond."""

    signatures: tuple[Signature, ...]
    _plans: tuple[tuple[int, bool, tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]], ...]

    @classmethod
    def of(cls, signatures: Sequence[Signature]) -> "RequestCheck":
        """Prepare the check."""
        plans = tuple(
            (
                len(signature.inputs),
                signature.batched,
                tuple((spec.name, spec.datatype.dtype, spec.shape) for spec in signature.inputs),
            )
            for signature in signatures
        )
        return cls(tuple(signatures), plans)

    def rows(self, request: Request) -> int:
        """The request's rows.

        Raises:
            VariantInputError: It fits no signature.
        """
        for count, batched, tensors in self._plans:
            if count != len(request) or not batched:
                continue
            rows = 0
            for name, dtype, shape in tensors:
                array = request.get(name)
                # Anything unusual is left to the full check, which says what is wrong.
                if array is None or array.dtype != dtype or not array.size or array.shape[1:] != shape[1:]:
                    break
                if rows and rows != array.shape[0]:
                    break
                rows = array.shape[0]
            else:
                return rows
        return choose_signature(self.signatures, request).check(request)


def choose_signature(signatures: Sequence[Signature], request: Request) -> Signature:
    """Find the signature whose input names are exactly the request's.

    Raises:
        VariantInputError: None has them.
    """
    names = request.keys()
    for signature in signatures:
        if len(signature.inputs) == len(names) and all(spec.name in names for spec in signature.inputs):
            return signature
    allowed = " or ".join(str([spec.name for spec in signature.inputs]) for signature in signatures)
    raise VariantInputError(f"inputs are {sorted(names)}, must be {allowed}: send exactly these names")
