"""ONNX's shape inference over a graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph


def infer_shapes(graph: Graph, propagate: bool = False) -> None:
    """Set dtype and shape of every variable that ONNX shape inference can determine.

    `propagate` lets it follow values of shape tensors too, which is slow once anchors are constants.

    Variables of plugin ops keep the types their pass gave them. Raises Refusal on contradictory shapes.
    """
    model = graph.skeleton().model
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=propagate)
    except onnx.shape_inference.InferenceError as error:
        raise Refusal(f"shape inference failed: {' '.join(str(error).split())[:300]}") from None
    tensors = graph.gs.tensors()
    for info in [*inferred.graph.value_info, *inferred.graph.output]:
        tensor = tensors.get(info.name)
        if not isinstance(tensor, gs.Variable) or not info.type.HasField("tensor_type"):
            continue
        kind = info.type.tensor_type
        if kind.elem_type:
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if kind.HasField("shape"):
            tensor.shape = [
                d.dim_value if d.HasField("dim_value") else (d.dim_param or f"{info.name}_{i}")
                for i, d in enumerate(kind.shape.dim)
            ]


def forget_shapes(graph: Graph) -> None:
    """Drop every inferred shape, so that inference starts from the inputs again."""
    for node in graph.gs.nodes:
        for tensor in node.outputs:
            tensor.shape = None


def is_static(tensor: gs.Tensor) -> bool:
    return tensor.shape is not None and all(isinstance(d, (int, np.integer)) for d in tensor.shape)
