"""A variant in this process that does what a test says. Load this file by its path."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anabranch.variants.errors import VariantInputError
from anabranch.variants.tensors import Array, Request


@dataclass
class LocalVariant:
    """Answers with the sums of its rows, once its gate is open.

    Attributes:
        manifest: Describes it.
        width: Of its answers' rows.
        failure: What it raises instead.
        reads_contents: It refuses inputs below zero.
        seen: Inputs of what it ran.
    """

    manifest: Any
    width: int = 3
    failure: Exception | None = None
    reads_contents: bool = False
    keeps_no_state: bool = True
    gate: threading.Event = field(default_factory=threading.Event)
    seen: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outputs = self.manifest.outputs
        self.gate.set()

    def check_inputs(self, inputs: Request) -> int:
        if not {"x"} <= set(inputs) <= {"x", "z"}:
            raise VariantInputError(f"inputs {sorted(inputs)} given, must be x")
        self.check_contents(inputs)
        return len(inputs["x"])

    def check_contents(self, inputs: Request) -> None:
        if self.reads_contents and (inputs["x"] < 0).any():
            raise VariantInputError("x is below zero")

    def infer(self, requests: Sequence[Request]) -> list[dict[str, Array]]:
        assert self.gate.wait(20)
        self.seen += [request["x"].copy() for request in requests]
        if self.failure is not None:
            raise self.failure
        return [
            {"y": np.repeat(request["x"].sum(axis=1, keepdims=True), self.width, axis=1)}
            for request in requests
        ]
