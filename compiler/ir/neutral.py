"""Nodes, and pairs of nodes, that hand on what they get: exporters, optimisers and people leave them in graphs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.ir.traverse import producer, scalar, value

_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0, "Pow": 1.0}
_LOSSLESS = {("float32", "float64"), ("float16", "float32"), ("float16", "float64"), ("int32", "int64"), ("uint8", "int32"),
             ("uint8", "int64"), ("uint8", "float32"), ("bool", "int32"), ("bool", "int64"), ("bool", "uint8")}  # fmt: skip
_WIDE = 1e30  # no number of a detector comes near
_ALL = 2**31 - 1  # an end of a Slice from here on takes all
_INDEXED = {"Gather": 1, "GatherND": 1, "GatherElements": 1, "ScatterND": 1, "ScatterElements": 1}


def same_value(node: gs.Node, rare: bool = False) -> gs.Tensor | None:
    """The tensor that a node only hands on, or None. Shapes count: what it hands on has the shape of its output.

    Args:
        rare: also ask what exports of detectors seldom hold, or hold where it does no harm.
    """
    rule = _USUAL.get(node.op) or (_RARE.get(node.op) if rare else None)
    found = rule(node) if rule is not None else None
    return _undone_scaling(node) if found is None and rare else found


def _arithmetic(node: gs.Node) -> gs.Tensor | None:
    for index in (1, 0) if node.op in ("Add", "Mul") else (1,):
        tensor, held = node.inputs[1 - index], value(node.inputs[index])
        if _plain(tensor, held) and scalar(node.inputs[index]) == _NEUTRAL[node.op]:
            return tensor
    return None


def _plain(tensor: gs.Tensor, held: np.ndarray | None) -> bool:
    """Whether a constant of one element leaves the shape of a tensor that is none."""
    rank = len(tensor.shape) if tensor.shape is not None else 0
    return not isinstance(tensor, gs.Constant) and held is not None and held.size == 1 and held.ndim <= rank


def _undone_scaling(node: gs.Node) -> gs.Tensor | None:
    """x of (x * 2) * 0.5: powers of two are exact."""
    mine, before = _power_of_two(node), producer(node.inputs[0]) if node.inputs else None
    theirs = _power_of_two(before) if before is not None else None
    if mine is None or theirs is None or before is None or mine * theirs != 1:
        return None
    return before.inputs[0]


def _power_of_two(node: gs.Node) -> float | None:
    """What a Mul or Div multiplies its first input by, where that is a power of two that is not 1."""
    if node.op not in ("Mul", "Div") or len(node.inputs) != 2 or not _plain(node.inputs[0], value(node.inputs[1])):
        return None
    number = scalar(node.inputs[1])
    if number is None or not 1e-6 < abs(number) < 1e6 or np.frexp(abs(number))[0] != 0.5:
        return None
    return number if node.op == "Mul" else 1 / number


def _dropout(node: gs.Node) -> gs.Tensor | None:
    training = len(node.inputs) > 2 and node.inputs[2].name and value(node.inputs[2]) is None
    unused = all(not t.outputs for t in node.outputs[1:])
    return node.inputs[0] if unused and not training and not (len(node.inputs) > 2 and scalar(node.inputs[2])) else None


def _transpose(node: gs.Node) -> gs.Tensor | None:
    before = _same_before(node)
    if before is None or "perm" not in node.attrs or "perm" not in before.attrs:
        return None
    both = np.array(before.attrs["perm"])[node.attrs["perm"]]
    return before.inputs[0] if np.array_equal(both, np.arange(len(both))) else None


def _cast(node: gs.Node) -> gs.Tensor | None:
    before = _same_before(node)
    if before is None:
        return None
    source = before.inputs[0]
    kinds = [onnx.helper.tensor_dtype_to_np_dtype(int(n.attrs["to"])).name for n in (before, node)]
    own = np.dtype(source.dtype).name if isinstance(source.dtype, (type, np.dtype)) else ""
    if own != kinds[1]:
        return None
    indices = kinds == ["int32", "int64"] and all(_INDEXED.get(n.op) == i for n in node.outputs[0].outputs
                                                  for i, t in enumerate(n.inputs) if t is node.outputs[0])  # fmt: skip
    return source if (own, kinds[0]) in _LOSSLESS or (indices and node.outputs[0].outputs) else None


def _twice(node: gs.Node) -> gs.Tensor | None:
    """x of -(-x), of not (not x)."""
    before = _same_before(node)
    return before.inputs[0] if before is not None else None


def _same_before(node: gs.Node) -> gs.Node | None:
    before = producer(node.inputs[0])
    return before if before is not None and before.op == node.op and not before.domain and before.inputs else None


def _equals(node: gs.Node) -> gs.Tensor | None:
    """x of Max(x, x) and of a condition and itself."""
    first = node.inputs[0]
    return first if len(node.inputs) > 1 and all(t is first for t in node.inputs) else None


def _where(node: gs.Node) -> gs.Tensor | None:
    condition, one, other = node.inputs
    if one is not other:
        return None
    same = condition.shape is not None and one.shape is not None and list(condition.shape) == list(one.shape)
    made = producer(condition)
    compared = made is not None and len(made.inputs) == 2 and made.inputs[0] is one and scalar(made.inputs[1]) is not None
    return one if same or compared or condition.shape == [] else None


def _clip(node: gs.Node) -> gs.Tensor | None:
    low, high = ((scalar(t) if t.name else None) if t is not None else None
                 for t in (*node.inputs[1:3], None, None)[:2])  # fmt: skip
    given = [t for t in node.inputs[1:3] if t.name]
    if node.attrs or any(value(t) is None for t in given):
        return None
    return node.inputs[0] if (low is None or low <= -_WIDE) and (high is None or high >= _WIDE) else None


def _pad(node: gs.Node) -> gs.Tensor | None:
    amounts = value(node.inputs[1]) if len(node.inputs) > 1 else None
    return node.inputs[0] if amounts is not None and not amounts.any() else None


def _slice(node: gs.Node) -> gs.Tensor | None:
    held = [value(t) for t in node.inputs[1:5]]
    if len(held) < 2 or any(h is None for h in held) or not isinstance(node.inputs[0], gs.Variable):
        return None
    start, end = held[0], held[1]
    steps = held[3] if len(held) > 3 else np.ones(1)
    assert start is not None
    assert end is not None
    assert steps is not None
    if not start.any() and (end >= _ALL).all() and (steps == 1).all():
        return node.inputs[0]
    part = _part_of_concat(node, held)
    if part is not None:
        return part
    before = _same_before(node)
    if before is None or not (_reverses(held) and _reverses([value(t) for t in before.inputs[1:5]])):
        return None
    same = np.array_equal(np.asarray(value(before.inputs[3])), np.asarray(held[2]))
    return before.inputs[0] if same else None


def _part_of_concat(node: gs.Node, held: list[np.ndarray | None]) -> gs.Tensor | None:
    """x of a Concat of tensors of fixed shapes, where a Slice takes all of x and nothing else."""
    joined = producer(node.inputs[0])
    if joined is None or joined.op != "Concat" or len(held) < 3 or any(h is None or h.size != 1 for h in held):
        return None
    first, last, axis, step = (int(np.asarray(h).reshape(-1)[0]) for h in (*held, np.ones(1))[:4])
    shapes = [list(t.shape or ()) for t in joined.inputs]
    if step != 1 or not all(shapes) or (axis - joined.attrs.get("axis", 0)) % len(shapes[0]):
        return None
    start = 0
    for source, shape in zip(joined.inputs, shapes, strict=True):
        extent = shape[axis]
        if not isinstance(extent, (int, np.integer)) or isinstance(source, gs.Constant):
            return None
        if (start, start + extent) == (first, last):
            return source
        start += int(extent)
    return None


def _reverses(held: list[np.ndarray | None]) -> bool:
    """Whether a Slice turns one axis round."""
    if len(held) != 4 or any(h is None or h.size != 1 for h in held):
        return False
    start, end, _, step = (int(np.asarray(h).reshape(-1)[0]) for h in held)
    return start == -1 and end <= -_ALL and step == -1


def _reshape(node: gs.Node) -> gs.Tensor | None:
    target, source = value(node.inputs[1]), node.inputs[0]
    if target is None or node.attrs.get("allowzero", 0) or isinstance(source, gs.Constant):
        return None
    if source.shape is not None and len(source.shape) == target.size and not target.any():
        return source
    before = _same_before(node)
    shape = before.inputs[0].shape if before is not None else None
    if before is None or shape is None or len(shape) != target.size or isinstance(before.inputs[0], gs.Constant):
        return None
    known = all(isinstance(d, int) for d in shape[1:]) and target[0] in (-1, shape[0] if isinstance(shape[0], int) else -1)
    whole = known and list(shape[1:]) == target[1:].tolist() and all(d > 0 for d in shape[1:])
    return before.inputs[0] if whole and value(before.inputs[1]) is not None else None


def _squeeze(node: gs.Node) -> gs.Tensor | None:
    """x of Squeeze(Unsqueeze(x, axes), axes)."""
    before = producer(node.inputs[0])
    if before is None or before.op != "Unsqueeze" or len(node.inputs) < 2 or len(before.inputs) < 2:
        return None
    mine, theirs = value(node.inputs[1]), value(before.inputs[1])
    return before.inputs[0] if mine is not None and theirs is not None and np.array_equal(mine, theirs) else None


def _concat(node: gs.Node) -> gs.Tensor | None:
    """x of all that a Split made of it."""
    before = producer(node.inputs[0])
    if before is None or before.op != "Split" or len(node.inputs) != len(before.outputs):
        return None
    together = all(a is b for a, b in zip(node.inputs, before.outputs, strict=True))
    rank = len(before.inputs[0].shape or ()) or 1
    same = (node.attrs.get("axis", 0) - before.attrs.get("axis", 0)) % rank == 0
    return before.inputs[0] if together and same else None


_USUAL: dict[str, Callable[[gs.Node], gs.Tensor | None]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic), "Dropout": _dropout, "Transpose": _transpose, "Cast": _cast,
}  # fmt: skip
_RARE: dict[str, Callable[[gs.Node], gs.Tensor | None]] = {
    "Pow": _arithmetic, "Neg": _twice, "Not": _twice, "Max": _equals, "Min": _equals, "And": _equals, "Or": _equals,
    "Where": _where, "Clip": _clip, "Pad": _pad, "Slice": _slice, "Reshape": _reshape, "Squeeze": _squeeze, "Concat": _concat,
}  # fmt: skip
