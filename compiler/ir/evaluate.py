"""Runs a part of a graph in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import IR_VERSION, Graph, node_inputs


def evaluate(
    graph: Graph, outputs: Sequence[gs.Tensor], feeds: dict[str, np.ndarray] | None = None
) -> list[np.ndarray]:
    """Run the part of the graph between `feeds` (by tensor name) and `outputs` in ONNX Runtime.

    Raises:
        Refusal: when the part needs a graph input that is not fed, or ONNX Runtime cannot run it.
    """
    feeds = feeds or {}
    nodes: list[gs.Node] = []
    seen: set[int] = set()
    constants: dict[str, gs.Constant] = {}
    stack: list[tuple[gs.Tensor, bool]] = [(t, False) for t in outputs]
    while stack:
        tensor, done = stack.pop()
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
        if done:
            if id(node) not in seen:
                seen.add(id(node))
                nodes.append(node)
            continue
        if id(node) in seen:
            continue
        stack.append((tensor, True))
        stack += [(t, False) for t in node_inputs(node)]
    part = gs.Graph(
        nodes=nodes,
        inputs=[gs.Variable(name, array.dtype, list(array.shape)) for name, array in feeds.items()],
        outputs=[gs.Variable(t.name, t.dtype) for t in outputs if not isinstance(t, gs.Constant)],
        opset=graph.gs.opset,
    )
    proto = onnx.GraphProto(name="part")
    exporter = gs.exporters.onnx_exporter.OnnxExporter
    proto.node.extend(exporter.export_node(node) for node in nodes)
    proto.input.extend(exporter.export_value_info_proto(t, True) for t in part.inputs)
    proto.output.extend(onnx.ValueInfoProto(name=t.name) for t in part.outputs)
    for constant in constants.values():
        proto.initializer.append(onnx.numpy_helper.from_array(np.array(constant.values), constant.name))
    model = onnx.helper.make_model(
        proto, ir_version=IR_VERSION, opset_imports=[onnx.helper.make_opsetid("", graph.gs.opset)]
    )
    computed: dict[str, np.ndarray] = {}
    if proto.output:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            names = [o.name for o in proto.output]
            computed = dict(zip(names, session.run(names, feeds), strict=True))
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            raise Refusal(f"cannot evaluate offline: {' '.join(str(error).split())[:200]}") from None
    return [np.array(t.values) if isinstance(t, gs.Constant) else computed[t.name] for t in outputs]
