"""Constant folding and shape inference over a graph whose weights stay on disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.bounds import bytes_of
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.identities import remove_identities, sweep
from onnxgraft.ir.normal_forms import normalise
from onnxgraft.ir.ops import RANDOM
from onnxgraft.ir.shape_inference import infer_shapes, is_static, size_known
from onnxgraft.ir.weights import is_large

FOLD_BYTES = 4096  # larger results (anchors, grids) stay as nodes: a pass of their own shows what becomes of them
_ROUNDS = 120  # a GroupNorm network needs one round per norm


def settle(graph: Graph, shapes: bool = True) -> dict[str, int]:
    """Fold, infer and drop until nothing changes. Returns what was done how often.

    Args:
        graph: rewritten in place.
        shapes: also fold shapes, which ties the graph to the size of its input.
    """
    done: dict[str, int] = {}
    for attempt in range(_ROUNDS):
        counts = {
            "constant nodes": constants_to_initializers(graph),
            "identities": remove_identities(graph),
            "other forms": normalise(graph),
        }
        if shapes or attempt == 1:  # once folding has made the first shapes known; it is slow to repeat
            infer_shapes(graph, propagate=shapes and attempt == 0)
        counts["folded"] = fold(graph, shapes=shapes)
        counts["inlined branches"] = inline_constant_ifs(graph)
        graph.cleanup()
        for key, count in counts.items():
            done[key] = done.get(key, 0) + count
        if not any(counts.values()) and (shapes or attempt >= 1):
            return done
    raise Refusal(f"folding did not come to rest in {_ROUNDS} rounds")


def constants_to_initializers(graph: Graph) -> int:
    """Turn Constant nodes of the main graph into constants. Returns how many."""
    made = 0
    for node in graph.gs.nodes:
        if node.op != "Constant" or not node.outputs:
            continue
        ((key, value),) = node.attrs.items()
        array = np.asarray(value.values if isinstance(value, gs.Constant) else value)
        if key in ("value_float", "value_floats"):
            array = array.astype(np.float32)
        elif key in ("value_int", "value_ints"):
            array = array.astype(np.int64)
        output = node.outputs[0]
        node.outputs.clear()
        output.to_constant(array)
        made += 1
    sweep(graph.gs)
    return made


def fold(graph: Graph, limit: int = FOLD_BYTES, shapes: bool = True) -> int:
    """Replace every small tensor that does not depend on the input by its value. Returns how many.

    Raises:
        Refusal: computing them would make more than `graph.bytes_to_fold` bytes on the way.
    """
    folded = _fold_shapes(graph) if shapes else 0
    while True:
        foldable, waiting = _foldable(graph)
        count = _evaluate_small(graph, foldable, limit)
        folded += count
        if not (count and waiting):
            return folded


def _foldable(graph: Graph) -> tuple[list[gs.Node], bool]:
    """The nodes that depend on constants alone, and whether some of them wait.

    A node waits until the size of its outputs can be told, which is when what decides it is a constant: a few bytes can
    ask for an array that fills the memory.
    """
    known: set[int] = set()
    foldable: list[gs.Node] = []
    waiting = False
    for node in graph.gs.nodes:
        if node.domain or node.op in RANDOM or not node.outputs:
            continue
        if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            continue
        if all((isinstance(t, gs.Constant) and not is_large(t)) or id(t) in known or not t.name for t in node.inputs):
            if not size_known(node, graph.gs.opset):
                waiting = True
                continue
            known.update(id(t) for t in node.outputs)
            foldable.append(node)
    return foldable, waiting


def _evaluate_small(graph: Graph, foldable: Sequence[gs.Node], limit: int) -> int:
    wanted = [t for node in foldable for t in node.outputs if t.name and _small(t, limit)]
    if not wanted:
        return 0
    values = evaluate(graph, wanted)
    folded = 0
    kept = {id(t) for t in graph.gs.outputs}
    for tensor, value in zip(wanted, values, strict=True):
        if value.nbytes > limit or id(tensor) in kept:
            continue
        tensor.inputs.clear()
        tensor.to_constant(value)
        folded += 1
    sweep(graph.gs)
    return folded


def _small(tensor: gs.Tensor, limit: int) -> bool:
    if not is_static(tensor) or tensor.dtype is None:
        return True
    return bytes_of([tensor]) <= limit


def _fold_shapes(graph: Graph) -> int:
    folded = 0
    kept = {id(t) for t in graph.gs.outputs}
    for node in graph.gs.nodes:
        if node.op != "Shape" or node.domain or not node.outputs or not is_static(node.inputs[0]):
            continue
        if id(node.outputs[0]) in kept:
            continue
        start, end = node.attrs.get("start", 0), node.attrs.get("end")
        shape = list(node.inputs[0].shape)[start:end]
        output = node.outputs[0]
        node.outputs.clear()
        output.to_constant(np.array(shape, np.int64))
        folded += 1
    sweep(graph.gs)
    return folded


def inline_constant_ifs(graph: Graph) -> int:
    """Replace If nodes whose condition is known by the branch they take. Returns how many."""
    inlined = 0
    for node in list(graph.gs.nodes):
        if node.op != "If" or not isinstance(node.inputs[0], gs.Constant):
            continue
        branch = node.attrs["then_branch" if bool(np.asarray(node.inputs[0].values).item()) else "else_branch"]
        position = graph.gs.nodes.index(node)
        for tensor in list(branch._local_tensors().values()):
            tensor.name = graph.fresh(tensor.name)
        outputs = list(node.outputs)
        node.outputs.clear()
        node.inputs.clear()
        graph.gs.nodes[position : position + 1] = branch.nodes
        for old, new in zip(outputs, branch.outputs, strict=True):
            if any(t is old for t in graph.gs.outputs):
                if not new.inputs:
                    raise Refusal("an If whose branch is a constant feeds a graph output", node.name)
                producer = new.inputs[0]
                index = next(i for i, t in enumerate(producer.outputs) if t is new)
                graph.replace(new, old)
                producer.outputs[index] = old
            else:
                graph.replace(old, new)
        inlined += 1
    if inlined:
        graph.name_nodes()
    return inlined
