"""Plugin ops run as functions, lowered to standard operators, and built by TensorRT for RTX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from onnxgraft.plugins import DOMAIN, PluginOp

IR_VERSION = 10


def feeds_of(op: PluginOp, arrays: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    return dict(zip(op.inputs, arrays, strict=True))


def plugin_node(op: PluginOp, attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> onnx.NodeProto:
    """A node in the compiler's domain with every attribute written out."""
    given = {key: value for key, value in op.validate(attrs, shapes).items() if value is not None}
    return helper.make_node(
        op.op_type, op.inputs, op.outputs, name="node", domain=DOMAIN, plugin_version=op.version, **given
    )


def run_function(
    op: PluginOp, attrs: Mapping[str, Any], *arrays: np.ndarray, opset: int = 17
) -> list[np.ndarray]:
    """The op's function in ONNX Runtime, called by a node as the compiler makes it."""
    shapes = [array.shape for array in arrays]
    node = plugin_node(op, attrs, shapes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in zip(op.inputs, arrays, strict=True)
    ]
    ints = ("num_detections", "detection_classes")
    kinds = [
        onnx.TensorProto.INT32
        if name in ints
        else helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
        for name in op.outputs
    ]
    outputs = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in zip(
            op.outputs, kinds, op.infer_shapes(attrs, shapes), strict=True
        )
    ]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(
        helper.make_graph([node], "plugin", inputs, outputs),
        functions=[op.function(opset)],
        opset_imports=opsets,
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    return _run(model, feeds_of(op, arrays))


def lowered_model(
    op: PluginOp, attrs: Mapping[str, Any], shapes: list[tuple[int, ...]], **options: Any
) -> onnx.ModelProto:
    model = helper.make_model(
        op.lower(attrs, shapes, options),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    names = [name for node in all_nodes(model.graph) for name in [node.name, *node.output]]
    assert len(names) == len({*names}) + repeated(model.graph)
    return model


def all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a graph and of its Loop bodies."""
    bodies = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.node, *(node for body in bodies for node in all_nodes(body))]


def repeated(graph: onnx.GraphProto) -> int:
    """Nodes that bear the name of their own output, the one repetition allowed."""
    return sum(node.name in node.output for node in all_nodes(graph))


def run_lowered(
    op: PluginOp, attrs: Mapping[str, Any], *arrays: np.ndarray, **options: Any
) -> list[np.ndarray]:
    """The op's native form in ONNX Runtime; its output shapes must be the inferred ones."""
    shapes = [array.shape for array in arrays]
    outputs = _run(lowered_model(op, attrs, shapes, **options), feeds_of(op, arrays))
    assert [o.shape for o in outputs] == op.infer_shapes(attrs, shapes)
    return outputs


def build_rtx(model: onnx.ModelProto) -> int:
    """Bytes of the engine that TensorRT for RTX builds, without a GPU."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    assert engine is not None
    return int(engine.nbytes)


def largest_constant(graph: onnx.GraphProto) -> int:
    """Elements of the largest constant of a graph."""
    return max(numpy_helper.to_array(t).size for t in graph.initializer)


def _run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(feeds)))
