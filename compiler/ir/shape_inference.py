"""ONNX's shape inference over a graph."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.bounds import elements
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import DATA_DEPENDENT
from onnxgraft.ir.traverse import tensors

_LONGEST_SHAPE = 64  # numbers in a constant that an operator's shape may depend on


def infer_shapes(graph: Graph, propagate: bool = False) -> None:
    """Set dtype and shape of every variable that ONNX shape inference can determine.

    `propagate` lets it follow values of shape tensors too, which is slow once anchors are constants.

    Variables of plugin ops keep the types their pass gave them. Raises Refusal on contradictory shapes.
    """
    model = graph.exported().model()
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=propagate)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise Refusal(f"shape inference failed: {' '.join(str(error).split())[:300]}") from None
    named, types = tensors(graph.gs), dict[bytes, tuple[Any, list[int | str] | None]]()
    for info in [*inferred.graph.value_info, *inferred.graph.output]:
        tensor = named.get(info.name)
        if not isinstance(tensor, gs.Variable) or not info.type.HasField("tensor_type"):
            continue
        told = info.type.SerializeToString()
        if told not in types:  # few are different
            kind = info.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else None
            types[told] = dtype, _dims(kind.shape) if kind.HasField("shape") else None
        dtype, shape = types[told]
        if dtype is not None:
            tensor.dtype = dtype
        if shape is not None:
            tensor.shape = _named(shape, info.name)


def first_misfit(graph: Graph) -> str | None:
    """The name of the first node whose inputs have shapes that do not fit together; None where all do."""
    try:
        onnx.shape_inference.infer_shapes(graph.exported().model(), strict_mode=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        told = re.search(r"node name: (.*?)\):", str(error))
        return told[1] if told else None
    return None


def infer_node(node: gs.Node, opset: int) -> None:
    """Set dtype and shape of the outputs of one node where they are None, by ONNX's rules for its operator.

    A dimension that is not known gets the tensor's name and its axis as a name. Nodes of other domains are left alone.

    Raises:
        Refusal: the operator does not take such inputs.
    """
    if node.domain or all(t.dtype is not None and t.shape is not None for t in node.outputs):
        return
    inferred = _infer(node, opset)
    for tensor in node.outputs:
        kind = inferred[tensor.name].tensor_type
        if tensor.dtype is None:
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if tensor.shape is None and kind.HasField("shape"):
            tensor.shape = _named(_dims(kind.shape), tensor.name)


def size_known(node: gs.Node, opset: int) -> bool:
    """Whether the size of what a node makes is known; where its inputs tell, it is set.

    Of operators whose size the values decide (NonZero), it counts as known: they give no more than they get, times the rank.
    """
    if node.op in DATA_DEPENDENT or all(is_static(t) for t in node.outputs if t.name):
        return True
    try:
        inferred = _infer(node, opset)
    except (Refusal, KeyError, onnx.defs.SchemaError):  # whoever runs it says what is wrong with it
        return False
    if node.op == "OneHot" and is_static(node.inputs[0]) and isinstance(node.inputs[1], gs.Constant):
        shape = list(node.inputs[0].shape)  # ONNX's own rule does not look at the depth
        axis = node.attrs.get("axis", -1) % (len(shape) + 1)
        node.outputs[0].shape = [*shape[:axis], int(np.ravel(node.inputs[1].values)[0]), *shape[axis:]]
    for tensor in node.outputs:
        kind = inferred[tensor.name].tensor_type if tensor.name in inferred else None
        if kind is not None and kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            tensor.shape = _named(_dims(kind.shape), tensor.name)
    return all(is_static(t) for t in node.outputs if t.name)


def _infer(node: gs.Node, opset: int) -> dict[str, onnx.TypeProto]:
    """The types of a node's outputs by name. Raises Refusal when the operator does not take such inputs."""
    inputs = [t for t in node.inputs if t.name]
    try:
        inferred: dict[str, onnx.TypeProto] = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op, opset, ""),
            gs.exporters.onnx_exporter.OnnxExporter.export_node(node),
            {t.name: onnx.helper.make_tensor_type_proto(_element_type(t), t.shape) for t in inputs},
            {t.name: onnx.numpy_helper.from_array(np.array(t.values), t.name) for t in inputs if _says_shape(t)},
            opset_imports=[onnx.helper.make_opsetid("", opset)],
        )
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise Refusal(f"{node.op} does not fit its inputs: {' '.join(str(error).split())[:200]}", node.name) from None
    return inferred


def _element_type(tensor: gs.Tensor) -> int:
    dtype = tensor.dtype or np.float32
    return dtype if isinstance(dtype, int) else int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _says_shape(tensor: gs.Tensor) -> bool:
    """Whether a constant may be a shape, axes, bounds, scales or a count."""
    return isinstance(tensor, gs.Constant) and elements(tensor.shape) <= _LONGEST_SHAPE


def _dims(shape: onnx.TensorShapeProto) -> list[int | str]:
    """Sides and their names; no name ("") where nothing is known."""
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in shape.dim]


def _named(dims: list[int | str], name: str) -> list[int | str]:
    """The same, in which what is not known is named by the tensor and the axis."""
    return [f"{name}_{axis}" if side == "" else side for axis, side in enumerate(dims)]


def forget_shapes(graph: Graph) -> None:
    """Drop every inferred shape, so that inference starts from the inputs again."""
    for node in graph.gs.nodes:
        for tensor in node.outputs:
            tensor.shape = None


def is_static(tensor: gs.Tensor) -> bool:
    return tensor.shape is not None and all(isinstance(d, (int, np.integer)) for d in tensor.shape)
