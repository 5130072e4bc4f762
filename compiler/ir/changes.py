"""Whether a pass changed its graph, told from what was exported before and after it."""

from __future__ import annotations

from typing import Any

import onnx

from onnxgraft.ir.exporting import Exported
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import fingerprint
from onnxgraft.ir.serde import Skeleton

_PLAIN = {getattr(onnx.AttributeProto, kind) for kind in ("INT", "FLOAT", "STRING", "INTS", "FLOATS", "STRINGS")}


def changed(before: Exported, after: Exported) -> bool:
    """Whether two graphs differ in more than the names of nodes and tensors: in structure, attributes, types, shapes, weights,
    or names of inputs and outputs.

    Most are told apart, or seen to be the same, without reading the whole of them.
    """
    if before == after:
        return False
    if len(before.nodes) != len(after.nodes):
        return True
    a, b = before.skeleton(), after.skeleton()
    return _outline(a) != _outline(b) or fingerprint(Graph.from_skeleton(a)) != fingerprint(Graph.from_skeleton(b))


def _outline(skeleton: Skeleton) -> list[Any]:
    """What a fingerprint tells apart in any case, and is cheap to see."""
    graph = skeleton.model.graph
    types = {value.name: _type(value.type.tensor_type) for value in (*graph.value_info, *graph.output)}
    nodes = [(n.op_type, n.domain, len(n.input), [types.get(name) for name in n.output], *_plain(n)) for n in graph.node]
    return [nodes, [value.name for value in graph.input], [value.name for value in graph.output],
            [(function.name, function.ByteSize()) for function in skeleton.model.functions]]  # fmt: skip


def _type(held: onnx.TypeProto.Tensor) -> tuple[int, str]:
    dims = [str(d.dim_value) if d.HasField("dim_value") else "?" for d in held.shape.dim]
    return held.elem_type, ",".join(dims) if held.HasField("shape") else "?"


def _plain(node: onnx.NodeProto) -> list[bytes]:
    """Its attributes without tensors and graphs, in any order alike."""
    return sorted(a.SerializeToString() for a in node.attribute if a.type in _PLAIN)
