"""Runs a part of a graph in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import IR_VERSION, Graph
from onnxgraft.ir.traverse import node_inputs


def evaluate(
    graph: Graph, outputs: Sequence[gs.Tensor], feeds: Mapping[str, np.ndarray] | None = None
) -> list[np.ndarray]:
    """Run the part of the graph between `feeds` and `outputs` in ONNX Runtime, as it stands, without optimizations.

    Args:
        graph: stays as it is.
        outputs: tensors of the main graph; a constant is its own value.
        feeds: by tensor name, arrays of the tensors' dtypes, of any shape that the part takes.

    Returns:
        One array for each output, of its dtype and of the shape that the feeds give it.

    Raises:
        Refusal: the part needs a graph input that is not fed, or ONNX Runtime cannot run it.
    """
    feeds = dict(feeds or {})
    nodes, constants = _part(outputs, feeds)
    wanted = [t.name for t in outputs if not isinstance(t, gs.Constant)]
    computed = _run(_model(graph, nodes, constants, feeds, wanted), wanted, feeds) if wanted else {}
    return [np.array(t.values) if isinstance(t, gs.Constant) else computed[t.name] for t in outputs]


def _part(
    outputs: Sequence[gs.Tensor], feeds: Mapping[str, np.ndarray]
) -> tuple[list[gs.Node], dict[str, gs.Constant]]:
    """The nodes that the outputs need, each behind those it reads, and the constants, by name."""
    nodes: list[gs.Node] = []
    constants: dict[str, gs.Constant] = {}
    seen: set[int] = set()
    stack: list[tuple[gs.Tensor, bool]] = [(t, False) for t in outputs]
    while stack:
        tensor, inputs_done = stack.pop()
        if tensor.name in feeds:
            continue
        if isinstance(tensor, gs.Constant):
            constants[tensor.name] = tensor
            continue
        if not tensor.inputs:
            if tensor.name:
                raise Refusal(f"tensor {tensor.name!r} depends on an input that is not known offline")
            continue
        node = tensor.inputs[0]
        if id(node) in seen:
            continue
        if inputs_done:
            seen.add(id(node))
            nodes.append(node)
            continue
        stack.append((tensor, True))
        stack += [(t, False) for t in node_inputs(node)]
    return nodes, constants


def _model(
    graph: Graph, nodes: Sequence[gs.Node], constants: Mapping[str, gs.Constant], feeds: Mapping[str, np.ndarray],
    wanted: Sequence[str],
) -> onnx.ModelProto:  # fmt: skip
    proto = onnx.GraphProto(name="part")
    exporter = gs.exporters.onnx_exporter.OnnxExporter
    proto.node.extend(exporter.export_node(node) for node in nodes)
    for name, array in feeds.items():
        element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        proto.input.append(onnx.helper.make_tensor_value_info(name, element, array.shape))
    proto.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    for constant in constants.values():
        proto.initializer.append(onnx.numpy_helper.from_array(np.array(constant.values), constant.name))
    opsets = [onnx.helper.make_opsetid("", graph.gs.opset)]
    return onnx.helper.make_model(proto, ir_version=IR_VERSION, opset_imports=opsets)


def _run(model: onnx.ModelProto, names: Sequence[str], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(list(names), feeds), strict=True))
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        raise Refusal(f"cannot evaluate offline: {' '.join(str(error).split())[:200]}") from None
