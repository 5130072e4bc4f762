"""Writes nodes in an older opset of ONNX, where it can say the same."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal

_AXES_AS_INPUT = 18  # from here on every Reduce has its axes as an input, ReduceSum from 13 on
_DROPPED: Mapping[str, Mapping[str, Any]] = {  # attributes that came later, with the value that means what was meant before
    "Cast": {"saturate": 1}, "QuantizeLinear": {"saturate": 1, "block_size": 0, "output_dtype": 0, "precision": 0},
    "DequantizeLinear": {"block_size": 0, "output_dtype": 0},
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": "stretch"}, "AveragePool": {"dilations": None},
    "ScatterElements": {}, "ScatterND": {}, "Reshape": {}, "Identity": {}, "Equal": {}, "Loop": {}, "If": {}, "Shape": {},
    "Size": {}, "Constant": {}, "ConstantOfShape": {}, "Flatten": {}, "Transpose": {}, "Squeeze": {}, "Unsqueeze": {},
    "Pad": {}, "Split": {}, "Gelu": {}, "Conv": {}, "ConvTranspose": {}, "MaxPool": {}, "InstanceNormalization": {},
    "GlobalAveragePool": {}, "HardSigmoid": {}, "HardSwish": {}, "RoiAlign": {}, "TopK": {}, "Round": {}, "IsNaN": {},
}  # fmt: skip


@functools.cache
def _changed_at(op: str, opset: int) -> int:
    """The opset that the definition in force at `opset` is from; 0 for no definition."""
    try:
        return int(onnx.defs.get_schema(op, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0


def lower_node(node: gs.Node, opset: int, wanted: int, what_for: str) -> bool:
    """Write a node of one opset in an older one; does nothing where the two define it alike.

    Args:
        node: of the standard domain.
        opset: what it is written in.
        wanted: what it is to be written in.
        what_for: whose opset that is, for the message.

    Returns:
        Whether it was changed.

    Raises:
        Refusal: the older one cannot say it, or the two differ in a way that is not known here; names the node.
    """
    if wanted >= opset or node.domain or _changed_at(node.op, opset) == _changed_at(node.op, wanted):
        return False
    if not _changed_at(node.op, wanted):
        raise Refusal(f"{node.op} is not in opset {wanted}, the newest of {what_for}", node.name)
    _refuse_types(node, wanted, what_for)
    rewrite = _REWRITES.get(node.op)
    if rewrite is not None:
        return rewrite(node, wanted, what_for)
    if node.op not in _DROPPED:
        raise Refusal(f"{node.op} of opset {opset} has no known form in opset {wanted}, the newest of {what_for}", node.name)
    _drop(node, wanted, what_for)
    if node.op == "Pad" and len(node.inputs) > 3:
        raise Refusal(f"Pad with axes is not in opset {wanted}, the newest of {what_for}", node.name)
    if node.op in ("ScatterElements", "ScatterND") and node.attrs.get("reduction", "none") in ("min", "max"):
        raise Refusal(f"{node.op} that reduces by {node.attrs['reduction']} is not in opset {wanted}", node.name)
    return False


def _refuse_types(node: gs.Node, wanted: int, what_for: str) -> None:
    """Refuse a type that the older definition does not have."""
    schema = onnx.defs.get_schema(node.op, wanted, "")
    allowed = {constraint.type_param_str: set(constraint.allowed_type_strs) for constraint in schema.type_constraints}
    for tensor, declared in zip(node.inputs, schema.inputs, strict=False):
        if tensor.dtype is None or declared.type_str not in allowed:
            continue
        code = tensor.dtype if isinstance(tensor.dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
        kind = onnx.TensorProto.DataType.Name(code).lower()
        if f"tensor({kind})" not in allowed[declared.type_str]:
            raise Refusal(f"{node.op} of {kind} is not in opset {wanted}, the newest of {what_for}", node.name)


def _drop(node: gs.Node, wanted: int, what_for: str) -> None:
    for name, neutral in _DROPPED[node.op].items():
        if name not in node.attrs:
            continue
        value = node.attrs[name]
        same = all(v == 1 for v in value) if neutral is None else value == neutral
        if not same:
            raise Refusal(f"{node.op} with {name} {value} is not in opset {wanted}, the newest of {what_for}", node.name)
        del node.attrs[name]
    if node.op == "Resize" and "axes" in node.attrs:
        raise Refusal(f"Resize with axes is not in opset {wanted}, the newest of {what_for}", node.name)


def _reduce(node: gs.Node, wanted: int, what_for: str) -> bool:
    """Axes become an attribute."""
    if wanted >= _AXES_AS_INPUT or len(node.inputs) < 2:
        return False
    axes = node.inputs[1]
    if not isinstance(axes, gs.Constant):
        raise Refusal(f"{node.op} with axes that are computed is not in opset {wanted}, the newest of {what_for}", node.name)
    values = [int(axis) for axis in np.asarray(axes.values).reshape(-1)]
    if not values and node.attrs.get("noop_with_empty_axes", 0):
        raise Refusal(f"{node.op} that does nothing is not in opset {wanted}, the newest of {what_for}", node.name)
    node.attrs.pop("noop_with_empty_axes", None)
    if values:
        node.attrs["axes"] = values
    node.inputs.remove(axes)
    return True


def _split(node: gs.Node, wanted: int, what_for: str) -> bool:
    """A number of parts becomes their sizes."""
    if "num_outputs" not in node.attrs:
        return False
    count = node.attrs.pop("num_outputs")
    axis, shape = node.attrs.get("axis", 0), node.inputs[0].shape
    length = shape[axis] if shape is not None else None
    if not isinstance(length, int):
        raise Refusal(f"Split of varying shape {shape} is not in opset {wanted}, the newest of {what_for}", node.name)
    size = -(-length // count)
    parts = np.array([size] * (count - 1) + [length - size * (count - 1)], np.int64)
    node.inputs.append(gs.Constant(f"{node.name}/sizes", parts))
    return True


_REDUCES = (
    "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceSumSquare",
)  # fmt: skip
_REWRITES: dict[str, Callable[[gs.Node, int, str], bool]] = {**dict.fromkeys(_REDUCES, _reduce), "Split": _split}
