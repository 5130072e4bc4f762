"""Where the pictures of a batch lie in a network that was traced for one: followed from the image, node by node.

They are the outermost part of one axis of each map: of the first in a convolution's [N, C, H, W] and in windowed attention's
[N * windows, tokens, C], of the second in the [3, N * heads, tokens, C] of queries, keys and values. A map's values lie in
memory as [before, N, behind], and whatever reshapes it keeps `before`, which tells the axis that has the pictures then.
It is long because it is one table: how each operator that moves axes moves that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.shape_inference import is_static
from onnxgraft.ir.traverse import value

RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})
BROADCASTS = frozenset({
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean", "Mod", "Where", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "And", "Or", "Xor", "PRelu", "BitwiseAnd", "BitwiseOr",
})  # fmt: skip
_OF_PICTURES = frozenset({
    "Conv", "ConvTranspose", "DeformConv", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool",
    "GlobalLpPool", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "DepthToSpace", "SpaceToDepth",
    "LRN", "GridSample",
})  # fmt: skip
"""Take maps whose first axis is the pictures."""
_POINTWISE = frozenset({
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh",
    "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "QuantizeLinear", "Reciprocal", "Relu", "Resize", "Round", "Selu",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
    "Upsample",
})  # fmt: skip
"""Leave each value where it is; Resize and Upsample stay within a map."""
_AT: dict[str, int | None] = {
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd",
                     "ReduceLogSumExp", "ReduceSumSquare", "CumSum"), 1),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin", "TopK", "LpNormalization"), None),
}  # fmt: skip
"""Work along axes, which this input may name."""
_LAST = frozenset({"Softmax", "LogSoftmax", "Hardmax", "TopK", "LpNormalization"})  # work along it by default

Axes = Mapping[int, int]
"""The axis that has the pictures, by the id of a tensor."""


def follow_pictures(nodes: Iterable[gs.Node], image: gs.Tensor) -> dict[int, int]:
    """The axis that has the pictures in every tensor of a network that depends on the image; its shapes are those of one.

    Args:
        nodes: of the network, each behind those that it reads.
        image: whose first axis has them.

    Raises:
        Refusal: a node works across the pictures, or lays them where they cannot be followed.
    """
    axes = {id(image): 0}
    for node in nodes:
        if not any(id(t) in axes for t in node.inputs) or node.op in ("Shape", "Size", "ConstantOfShape"):
            continue
        for tensor in node.outputs:
            axes[id(tensor)] = _axis_behind(node, axes)
    return axes


def _axis_behind(node: gs.Node, axes: Axes) -> int:
    if node.op in BROADCASTS:
        return _of_broadcast(node, axes)
    if node.op in _OF_PICTURES:
        return _of_maps(node, axes)
    if node.op in _AT:
        return _behind_a_reduction(node, axes)
    rule = _RULES.get(node.op)
    axis = axes.get(id(node.inputs[0]))
    if axis is None:
        if rule in (_of_product, _of_sum, _of_concat):
            return rule(node, axes, -1)
        raise _across(node)
    if rule is None and node.op not in _POINTWISE:
        raise Refusal(f"nothing is known of how this {node.op} keeps the pictures of a batch apart; build with --batch 1",
                      node.name)  # fmt: skip
    return rule(node, axes, axis) if rule is not None else axis


def _of_maps(node: gs.Node, axes: Axes) -> int:
    """Maps by their first axis; weights and statistics are those of all pictures, offsets and places each picture's own."""
    own = {"DeformConv": (0, 2, 4), "GridSample": (0, 1)}.get(node.op, (0,))
    for place, tensor in enumerate(node.inputs):
        if tensor.name:
            _expect(node, axes.get(id(tensor)) == 0 if place in own else id(tensor) not in axes, 0)
    return 0


def _across(node: gs.Node) -> Refusal:
    return Refusal(f"this {node.op} works across the pictures of a batch, so that each would change what the others give; "
                   "build with --batch 1", node.name)  # fmt: skip


def _expect(node: gs.Node, holds: bool, axis: int) -> int:
    """`axis`, where `holds`. Raises Refusal."""
    if not holds:
        raise _across(node)
    return axis


def _rank(tensor: gs.Tensor) -> int | None:
    return len(tensor.shape) if tensor.shape is not None else None


def _ints(node: gs.Node, name: str, at: int | None) -> list[int] | None:
    """Integers that an attribute or a constant input says; None where none does. Raises Refusal for ones that vary."""
    if name in node.attrs:
        return [int(v) for v in np.atleast_1d(np.asarray(node.attrs[name]))]
    if at is None or len(node.inputs) <= at or not node.inputs[at].name:
        return None
    held = value(node.inputs[at])
    if held is None:
        raise Refusal(f"this {node.op} takes {name} that vary, so that the pictures of a batch cannot be followed; build with "
                      "--batch 1", node.name)  # fmt: skip
    return [int(v) for v in held.reshape(-1)]


def _of_broadcast(node: gs.Node, axes: Axes) -> int:
    """Operands are aligned at their last axes."""
    ranks = [_rank(t) for t in node.inputs if t.name]
    known = [r for r in ranks if r is not None]
    rank = max(known, default=0)
    found: set[int] = set()
    extents: set[int] = set()
    for tensor in node.inputs:
        if id(tensor) in axes:
            own = _rank(tensor) or rank
            found.add(axes[id(tensor)] + rank - own)
            if is_static(tensor):
                extents.add(int(tensor.shape[axes[id(tensor)]]))
    axis = found.pop()
    lone = extents == {1} and any(_extent(t, axis, rank) > 1 for t in node.inputs if id(t) not in axes and t.name)
    return _expect(node, not found and len(extents) <= 1 and not lone, axis)


def _extent(tensor: gs.Tensor, axis: int, rank: int) -> int:
    """How much of an axis (of the result's) an operand of one picture has."""
    own = axis - (rank - (_rank(tensor) or 0))
    return int(tensor.shape[own]) if own >= 0 and is_static(tensor) else 1


def _behind_a_reduction(node: gs.Node, axes: Axes) -> int:
    tensor = node.inputs[0]
    axis, rank = _expect(node, id(tensor) in axes, axes.get(id(tensor), 0)), _rank(tensor)
    along = _ints(node, "axes" if "axes" in node.attrs else "axis", _AT[node.op])
    if along is None:
        if node.op in _LAST:
            along = [-1]
        elif node.op in ("ArgMax", "ArgMin"):
            along = [0]
        else:
            return _expect(node, bool(node.attrs.get("noop_with_empty_axes", 0)), axis)
    if rank is None:
        return _expect(node, axis == 0 and 0 not in along, axis)
    taken = {a % rank for a in along}
    gone = node.op.startswith(("Reduce", "Arg")) and not node.attrs.get("keepdims", 1)
    return _expect(node, axis not in taken, axis - (sum(a < axis for a in taken) if gone else 0))


def _of_norm(node: gs.Node, axes: Axes, axis: int) -> int:
    rank = _rank(node.inputs[0])
    first = int(node.attrs.get("axis", -1))
    return _expect(node, rank is None or axis < first % rank, axis)


def _reshaped(node: gs.Node, axes: Axes, axis: int) -> int:
    """The axis of the result behind as many values as there were before the pictures."""
    source, result = node.inputs[0], node.outputs[0]
    if not is_static(source) or not is_static(result):
        return _expect(node, axis == 0, 0)
    before = int(np.prod(source.shape[:axis], dtype=np.int64))
    passed = 1
    for place, extent in enumerate(result.shape):
        if passed == before:
            return place
        passed *= int(extent)
    raise Refusal("this Reshape lays the pictures of a batch inside another axis, where they cannot be followed; build with "
                  "--batch 1", node.name)  # fmt: skip


def _transposed(node: gs.Node, axes: Axes, axis: int) -> int:
    rank = _rank(node.inputs[0]) or 0
    order = [int(a) for a in node.attrs.get("perm", range(rank)[::-1])]
    return order.index(axis)


def _of_product(node: gs.Node, axes: Axes, _: int) -> int:
    """A MatMul: pictures among the stacked matrices, or among the rows of one operand alone; or vectors of pictures."""
    left, right = node.inputs[:2]
    ranks = _rank(left), _rank(right)
    if multiplies_vectors(node):  # their numbers follow one another on the one axis
        return _expect(node, id(left) in axes and id(right) not in axes, 0)
    if None in ranks or min(r or 0 for r in ranks) < 2:
        apart = ranks[0] is None or axes.get(id(left), 0) < ranks[0] - 1  # the last axis is summed over
        return _expect(node, id(left) in axes and id(right) not in axes and apart, axes.get(id(left), 0))
    rank = max(r or 0 for r in ranks)
    places = [axes[id(t)] - (_rank(t) or 0) for t in (left, right) if id(t) in axes]  # from the end
    if len(places) == 2:
        sides = [int(t.shape[p]) for t, p in zip((left, right), places, strict=True)]
        return _expect(node, places[0] == places[1] < -2 and sides[0] == sides[1], rank + places[0])
    rows = -2 if id(left) in axes else -1
    carrier, other = (left, right) if id(left) in axes else (right, left)
    lone = places[0] < -2 and int(carrier.shape[places[0]]) == 1 and _extent(other, rank + places[0], rank) > 1
    return _expect(node, (places[0] < -2 or places[0] == rows) and not lone, rank + places[0])


def multiplies_vectors(node: gs.Node) -> bool:
    """Whether a MatMul takes one vector, as a squeezed picture's, times a matrix."""
    return node.op == "MatMul" and (_rank(node.inputs[0]), _rank(node.inputs[1])) == (1, 2)


def _of_gemm(node: gs.Node, axes: Axes, axis: int) -> int:
    return _expect(node, axis == (1 if node.attrs.get("transA", 0) else 0) and id(node.inputs[1]) not in axes, 0)


def _of_sum(node: gs.Node, axes: Axes, _: int) -> int:
    """An Einsum: the pictures' letter is in the result, and no other operand has it without them."""
    left, arrow, right = str(node.attrs["equation"]).replace(" ", "").partition("->")
    terms = left.split(",")
    letters = {terms[i][axes[id(t)]] for i, t in enumerate(node.inputs) if id(t) in axes and "." not in left}
    letter = letters.pop() if len(letters) == 1 else ""
    same = all((id(t) in axes) == (letter in terms[i]) for i, t in enumerate(node.inputs))
    return _expect(node, bool(arrow and letter) and letter in right and same, max(right.find(letter), 0))


def _gathered(node: gs.Node, axes: Axes, axis: int) -> int:
    rank = _rank(node.inputs[0])
    along = int(node.attrs.get("axis", 0)) % (rank or 1)
    if along == axis and rank and _lone_picture(node):
        return _reshaped(node, axes, axis)
    more = (_rank(node.inputs[1]) or 0) - 1
    return _expect(node, along != axis and id(node.inputs[1]) not in axes, axis + (more if along < axis else 0))


def _lone_picture(node: gs.Node) -> bool:
    """Whether a Gather takes the one row that its axis has."""
    index = value(node.inputs[1])
    along = int(node.attrs.get("axis", 0))
    extent = node.inputs[0].shape[along]
    return extent == 1 and index is not None and index.ndim == 0 and int(index) in (0, -1)


def _sliced(node: gs.Node, axes: Axes, axis: int) -> int:
    rank = _rank(node.inputs[0]) or 4
    starts, ends, steps = (_ints(node, name, at) for name, at in (("starts", 1), ("ends", 2), ("steps", 4)))
    along = _ints(node, "axes", 3) or list(range(len(starts or ())))
    for place, own in enumerate(along):
        if own % rank == axis:
            whole = starts is not None and starts[place] == 0 and ends is not None and ends[place] >= 2**31 - 1
            _expect(node, whole and (steps is None or steps[place] == 1), axis)
    return axis


def _split(node: gs.Node, axes: Axes, axis: int) -> int:
    return _expect(node, int(node.attrs.get("axis", 0)) % (_rank(node.inputs[0]) or 4) != axis, axis)


def _of_concat(node: gs.Node, axes: Axes, _: int) -> int:
    found = {axes[id(t)] for t in node.inputs if id(t) in axes}
    rank = _rank(node.outputs[0]) or _rank(node.inputs[0]) or 4
    axis = found.pop()
    return _expect(node, not found and int(node.attrs["axis"]) % rank != axis, axis)


def _padded(node: gs.Node, axes: Axes, axis: int) -> int:
    amounts = _ints(node, "pads", 1) or []
    along = _ints(node, "axes", 3)
    rank = len(amounts) // 2
    where = [a % (_rank(node.inputs[0]) or rank) for a in along] if along is not None else list(range(rank))
    own = [amounts[i] or amounts[rank + i] for i, a in enumerate(where) if a == axis]
    return _expect(node, not any(own), axis)


def _expanded(node: gs.Node, axes: Axes, axis: int) -> int:
    rank, own = _rank(node.outputs[0]), _rank(node.inputs[0])
    if rank is None or own is None:
        return axis
    grown = is_static(node.inputs[0]) and is_static(node.outputs[0]) and (
        node.inputs[0].shape[axis] != node.outputs[0].shape[axis + rank - own]
    )  # fmt: skip
    return _expect(node, not grown, axis + rank - own)


def _tiled(node: gs.Node, axes: Axes, axis: int) -> int:
    repeats = _ints(node, "repeats", 1) or []
    return _expect(node, len(repeats) > axis and repeats[axis] == 1, axis)


_RULES: dict[str, Callable[[gs.Node, Axes, int], int]] = {
    **dict.fromkeys(RESHAPES, _reshaped),
    "LayerNormalization": _of_norm,
    "RMSNormalization": _of_norm,
    "Transpose": _transposed,
    "MatMul": _of_product,
    "Gemm": _of_gemm,
    "Einsum": _of_sum,
    "Gather": _gathered,
    "Slice": _sliced,
    "Split": _split,
    "Concat": _of_concat,
    "Pad": _padded,
    "Expand": _expanded,
    "Tile": _tiled,
}
"""How an operator moves the pictures."""
