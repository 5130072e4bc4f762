"""A part of a graph between two sets of tensors, ready to run in ONNX Runtime as often as wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from numpy.typing import NDArray

from onnxgraft.errors import OnnxgraftError
from onnxgraft.ir.evaluate import NEWEST
from onnxgraft.ir.graph import IR_VERSION, PLUGIN_DOMAIN, Graph
from onnxgraft.ir.traverse import node_inputs

Arrays = dict[str, NDArray[Any]]
_NPY = onnx.helper.np_dtype_to_tensor_dtype


class CutError(OnnxgraftError):
    """A part reads something besides the tensors at which it should begin, or ONNX Runtime cannot run it."""


class Cut:
    """The nodes between `inputs` and `outputs` of a graph.

    Attributes:
        nodes: names of the nodes between, in order.

    Raises:
        CutError: the part needs a graph input besides `inputs`, or ONNX Runtime cannot load it.
    """

    def __init__(self, graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        model = model_between(graph, inputs, outputs)
        self.nodes = tuple(node.name for node in model.graph.node)
        self.inputs = tuple(value.name for value in model.graph.input)
        self.outputs = tuple(outputs)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's classes share no base below Exception
            raise CutError(f"ONNX Runtime cannot load the part: {_line(error)}") from None

    def __call__(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run once; what the part does not read is ignored.

        Raises:
            CutError: ONNX Runtime stops.
        """
        try:
            found = self._session.run(list(self.outputs), {name: feeds[name] for name in self.inputs})
        except Exception as error:  # as above
            raise CutError(f"ONNX Runtime cannot run the part: {_line(error)}") from None
        return dict(zip(self.outputs, found, strict=True))


def model_between(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The nodes between tensors as a model, whose inputs are those of `inputs` that it reads, of open sizes.

    Raises:
        CutError: the part needs a graph input besides `inputs`, or the graph has no tensor of a name.
    """
    names = _Names(graph)
    starts = {name: names.tensor(name) for name in inputs}
    ends = [names.tensor(name) for name in outputs]
    nodes, constants = _between(starts, ends)
    read = {name: tensor for name, tensor in starts.items() if _is_read(name, nodes, ends)}
    return _model(graph, nodes, constants, read, ends)


class _Names:
    """Tensors of a graph by name, looked up once."""

    def __init__(self, graph: Graph) -> None:
        self._tensors = {t.name: t for t in (*graph.gs.inputs, *graph.gs.outputs)}
        for node in graph.nodes:
            self._tensors |= {t.name: t for t in (*node.inputs, *node.outputs)}

    def tensor(self, name: str) -> gs.Tensor:
        if name not in self._tensors:
            raise CutError(f"the graph has no tensor {name!r}")
        return self._tensors[name]


def _between(starts: Mapping[str, gs.Tensor], ends: Sequence[gs.Tensor]) -> tuple[list[gs.Node], dict[str, gs.Constant]]:
    nodes: list[gs.Node] = []
    constants: dict[str, gs.Constant] = {}
    placed: set[int] = set()
    stack: list[tuple[gs.Tensor, bool]] = [(t, False) for t in ends]
    while stack:
        tensor, done = stack.pop()
        if tensor.name in starts:
            continue
        if isinstance(tensor, gs.Constant):
            constants[tensor.name] = tensor
            continue
        if not tensor.inputs:
            if tensor.name:
                raise CutError(f"the part also reads {tensor.name!r}")
            continue
        node = tensor.inputs[0]
        if id(node) in placed:
            continue
        if done:
            placed.add(id(node))
            nodes.append(node)
            continue
        stack.append((tensor, True))
        stack += [(t, False) for t in node_inputs(node)]
    return nodes, constants


def _is_read(name: str, nodes: Sequence[gs.Node], ends: Sequence[gs.Tensor]) -> bool:
    return any(t.name == name for node in nodes for t in node_inputs(node)) or any(t.name == name for t in ends)


def _model(
    graph: Graph,
    nodes: Sequence[gs.Node],
    constants: Mapping[str, gs.Constant],
    starts: Mapping[str, gs.Tensor],
    ends: Sequence[gs.Tensor],
) -> onnx.ModelProto:
    proto = onnx.GraphProto(name="part")
    exporter = gs.exporters.onnx_exporter.OnnxExporter
    proto.node.extend(exporter.export_node(node) for node in nodes)
    for name, tensor in starts.items():
        rank = len(tensor.shape) if tensor.shape is not None else None
        kind = _NPY(np.dtype(tensor.dtype or np.float32))
        proto.input.append(onnx.helper.make_tensor_value_info(name, kind, None if rank is None else [None] * rank))
    proto.output.extend(onnx.ValueInfoProto(name=t.name) for t in ends)
    proto.initializer.extend(
        onnx.numpy_helper.from_array(np.array(c.values), c.name) for c in constants.values()
    )
    imports = [onnx.helper.make_opsetid("", min(graph.gs.opset, NEWEST)), onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1)]
    model = onnx.helper.make_model(proto, ir_version=IR_VERSION, opset_imports=imports)
    model.functions.extend(graph.functions[name] for name in sorted(graph.functions))
    return model


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
