"""One graph with every layer twice, in full and in reduced precision, and an input that chooses.

So one session answers for every assignment of precisions, and the reduced half is the artifact's own.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anabranch.variants.errors import BuildError
from anabranch.variants.measure import run_all
from anabranch.variants.onnx_graphs import with_extra_outputs
from anabranch.variants.quantize.static import LinearLayer
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.tensors import Array, Request

_SWITCHES = "anabranch/switches"


def switch_graph(
    full: onnx.ModelProto, reduced: onnx.ModelProto, layers: Sequence[LinearLayer]
) -> onnx.ModelProto:
    """The joined graph; its input `anabranch/switches` is a vector of BOOL, true where a layer is reduced.

    Args:
        full: The reference in FP32.
        reduced: A graph built of it, in which every layer's output has the same name.
        layers: What can be switched, in the order of the vector.

    Raises:
        BuildError: A layer's output is missing in the reduced graph.
    """
    result = onnx.ModelProto()
    result.CopyFrom(reduced)
    graph = result.graph
    originals = {node.name: node for node in full.graph.node}
    makers = {name: node for node in graph.node for name in node.output}
    present = {tensor.name for tensor in graph.initializer}
    constants = {tensor.name: tensor for tensor in full.graph.initializer}
    extra: list[onnx.NodeProto] = []
    for index, layer in enumerate(layers):
        original = originals[layer.node]
        out = original.output[0]
        maker = makers.get(out)
        if maker is None:
            raise BuildError(f"the reduced graph lacks {out!r}: its layers cannot be compared one by one")
        maker.output[list(maker.output).index(out)] = f"{out}/reduced"
        copy = onnx.NodeProto.FromString(original.SerializeToString())
        copy.name, copy.output[0] = f"{out}/full", f"{out}/full"
        for name in copy.input:
            if name in constants and name not in present:
                present.add(name)
                graph.initializer.append(constants[name])
        at, chosen = f"{out}/switch_index", f"{out}/switch"
        graph.initializer.append(numpy_helper.from_array(np.array(index, np.int64), at))
        extra += [
            copy,
            helper.make_node("Gather", [_SWITCHES, at], [chosen], name=chosen),
            helper.make_node("Where", [chosen, f"{out}/reduced", f"{out}/full"], [out], name=f"{out}/chosen"),
        ]
    graph.input.append(helper.make_tensor_value_info(_SWITCHES, TensorProto.BOOL, [len(layers)]))
    ordered = _ordered([*graph.node, *extra], graph)
    del graph.node[:]
    graph.node.extend(ordered)
    return result


def _ordered(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes so that each comes after what it reads, as the format wants it."""
    ready = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input} | {""}
    waiting = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    done: list[onnx.NodeProto] = []
    while waiting:
        later: list[onnx.NodeProto] = []
        for node in waiting:
            if ready.issuperset(node.input):
                ready.update(node.output)
                done.append(node)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise BuildError(f"the joined graph has a circle at {later[0].name!r}")
        waiting = later
    return done


class SwitchedModel:
    """A session over a joined graph.

    Args:
        full: The reference in FP32.
        reduced: A graph built of it.
        layers: What can be switched.
        probe: An inner tensor to give beside the outputs, where there is one.
        threads: Threads that share a call's work.
    """

    def __init__(
        self,
        full: onnx.ModelProto,
        reduced: onnx.ModelProto,
        layers: Sequence[LinearLayer],
        *,
        probe: str | None,
        threads: int,
    ) -> None:
        self._names = [layer.node for layer in layers]
        joined = with_extra_outputs(switch_graph(full, reduced, layers), [probe] if probe else [])
        self._session = OnnxSession(joined, threads=threads)

    def run(self, requests: Sequence[Request], reduced: Collection[str]) -> dict[str, Array]:
        """Answers to one-row requests with these layers reduced and the others in full."""
        return run_all(_Switched(self._session, self._names, reduced), requests)


class _Switched:
    """The session with its switches set, as `run_all` takes one."""

    def __init__(self, session: OnnxSession, names: Sequence[str], reduced: Collection[str]) -> None:
        self._session = session
        self._switches = np.array([name in reduced for name in names])

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every output."""
        return self._session.run({**feeds, _SWITCHES: self._switches})
