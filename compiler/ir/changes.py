"""Whether a pass changed its graph, told from what was exported before and after it."""

from __future__ import annotations

from typing import Any

from onnxgraft.ir.exporting import Exported
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import fingerprint
from onnxgraft.ir.serde import Skeleton


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
    return [[(node.op_type, node.domain, len(node.input), len(node.output)) for node in graph.node],
            [value.name for value in graph.input], [value.name for value in graph.output]]  # fmt: skip
