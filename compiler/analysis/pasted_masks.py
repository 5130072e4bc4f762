"""Undoes masks that an export pastes into the picture one after the other, as torchvision's post-processing does."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector import decoding
from onnxgraft.detector.output_forms import OutputForm
from onnxgraft.detector.outputs import Role
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import RESHAPING
from onnxgraft.ir.traverse import back_through, contains_op, node_inputs, producer

_CELLS = (28, 14, 56)  # of a mask, where the graph leaves them open
_SAME = 1e-3
_SHARES = np.array([[0.2, 0.1, 0.6, 0.5], [0, 0, 0.1, 0.15], [0.55, 0.5, 1, 1], [0.3, 0.3, 0.302, 0.7], [0, 0, 1, 1]])
_SEED = 14


def undo_pasting(graph: Graph, size: tuple[int, int]) -> tuple[OutputForm, ...]:
    """Let masks [n, 1, H, W] give way, in place, to the probabilities [n, 1, M, M] that they are pasted from.

    What is held, on masks and boxes of all kinds: the output is `decoding.pasted` of the probabilities and of those boxes
    that the file gives, and of nothing else. Where it is not, it stays and is refused by the analysis of the detector.

    Args:
        graph: a simplified graph.
        size: height and width of the image.
    """
    boxes = [t for t in graph.gs.outputs if isinstance(t, gs.Variable) and len(t.shape or ()) == 2 and t.shape[1] == 4]
    for index, output in enumerate(graph.gs.outputs):
        maps = _pasted_from(output)
        if maps is not None and len(boxes) == 1 and _held(graph, output, maps, boxes[0], size):
            graph.gs.outputs[index] = maps
            graph.cleanup()
            what = "[n, 1, H, W], pasted into the picture"
            return (OutputForm(Role.MASKS.value, output.name, maps.name, shape=what, decoded=True),)
    return ()


def _pasted_from(output: gs.Tensor) -> gs.Tensor | None:
    """The masks [n, 1, M, M] that the loop behind an output enlarges, without the zeros that it has around them."""
    loop = producer(back_through(output, RESHAPING)) if len(output.shape or ()) == 4 else None
    if loop is None or loop.op != "Loop" or contains_op(loop, "Resize") is None:
        return None
    read = [t for t in node_inputs(loop) if len(t.shape or ()) == 4 and isinstance(t, gs.Variable)]
    return back_through(read[0], {"Pad"}) if len(read) == 1 else None


def _held(graph: Graph, output: gs.Tensor, maps: gs.Tensor, boxes: gs.Tensor, size: tuple[int, int]) -> bool:
    known = [int(d) for d in maps.shape[2:] if isinstance(d, (int, np.integer))]
    rng = np.random.Generator(np.random.Philox(_SEED))
    height, width = size
    drawn = (_SHARES * [width, height, width, height]).astype(np.float32)
    for cells in known[:1] or _CELLS:
        masks = rng.uniform(0, 1, (len(drawn), 1, cells, cells)).astype(np.float32)
        wanted = decoding.pasted(masks[:, 0], drawn, size)
        try:
            (found,) = evaluate(graph, [output], {maps.name: masks, boxes.name: drawn})
        except Refusal:
            return False
        if found.shape == (len(drawn), 1, *size) and np.abs(found[:, 0] - wanted).max() <= _SAME:
            return True
    return False
