"""Undoes the keypoints that an export decodes from heatmaps, as torchvision's Keypoint R-CNN does in a loop over detections."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector import decoding
from onnxgraft.detector.output_forms import OutputForm
from onnxgraft.detector.outputs import Role
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import ancestors, ancestors_before, back_through, contains_op, node_inputs

_CELLS, _KEYPOINTS = 14, 5  # of a heatmap and of a detection, where the graph leaves them open
_SAME = 2e-3  # pixels, and of logits of about 1
_CLEAR = 1e-3  # by which the highest pixel exceeds every other one, so that rounding does not choose
_BOXES = np.array([[3.25, 4.5, 40.75, 33.125], [10.5, 2.25, 10.75, 2.5], [0, 0, 64, 48], [5.75, 8, 22.25, 70.5],
                   [17.3, 11.9, 63.1, 14.2], [200.5, 100, 230, 163]], np.float32)  # fmt: skip
_SEED = 13


def undo_decoding(graph: Graph) -> tuple[OutputForm, ...]:
    """Let keypoints [n, K, 3] and their logits [n, K] give way, in place, to the heatmaps [n, K, S, S] that they are read from.

    The build gives the heatmaps, as of detectron2's Keypoint R-CNN, and the runtime finds the same points in them. What is
    held, on heatmaps and boxes of all kinds: the outputs are `decoding.keypoints` of the heatmaps and of those boxes that
    the file gives, and of nothing else.

    Raises:
        Refusal: names the loop that decodes in another way, or on other boxes.
    """
    found = [(t, node) for t in graph.gs.outputs if (node := _decoder(t)) is not None]
    if not found:
        return ()
    outputs, loop = [t for t, _ in found], found[0][1]
    maps, boxes = _read_by(loop)
    _hold(graph, outputs, loop, maps, boxes)
    graph.gs.outputs[:] = [*(t for t in graph.gs.outputs if all(t is not other for other in outputs)), maps]
    graph.cleanup()
    shapes = {3: "[n, K, 3], x, y and 1", 2: "[n, K], their logits"}
    return tuple(OutputForm(Role.HEATMAPS.value, t.name, maps.name, shape=shapes[len(t.shape)], decoded=True) for t in outputs)


def _decoder(output: gs.Tensor) -> gs.Node | None:
    """The loop behind an output that enlarges maps and looks for their highest pixel."""
    if isinstance(output, gs.Constant) or len(output.shape or ()) not in (2, 3):
        return None
    loops = (n for n in ancestors_before(output, {"Loop"}) if n.op == "Loop")
    return next((n for n in loops if contains_op(n, "Resize") is not None and contains_op(n, "ArgMax") is not None), None)


def _read_by(loop: gs.Node) -> tuple[gs.Tensor, gs.Tensor]:
    """The heatmaps [n, K, S, S] and the boxes [n, 4] that a loop reads."""
    read = [t for t in node_inputs(loop) if t.dtype is not None and np.issubdtype(np.dtype(t.dtype), np.floating)]
    maps = {id(m): m for t in read if len(t.shape or ()) == 4 and (m := back_through(t, {"Slice", "Split"}))}
    boxes: dict[int, gs.Tensor] = {}
    for sides in (t for t in read if len(t.shape or ()) == 1):
        nodes = ancestors(sides)
        near = next((t for n in nodes for t in n.inputs if len(t.shape or ()) == 2 and t.shape[1] == 4), None)
        boxes |= {id(near): near} if near is not None else {}
    if len(maps) != 1 or len(boxes) != 1:
        raise Refusal(f"keypoints are decoded here of {len(maps)} sets of heatmaps and {len(boxes)} of boxes, expected one of "
                      "each: export the heatmaps instead", loop.name)  # fmt: skip
    return next(iter(maps.values())), next(iter(boxes.values()))


def _hold(graph: Graph, outputs: list[gs.Tensor], loop: gs.Node, maps: gs.Tensor, boxes: gs.Tensor) -> None:
    given = [t for t in graph.gs.outputs if len(t.shape or ()) == 2 and t.shape[1] == 4 and all(t is not o for o in outputs)]
    layer = next((n for n in ancestors(maps) if n.op == "ConvTranspose"), None)
    channels = layer.inputs[1].shape[1] if layer is not None and layer.inputs[1].shape else _KEYPOINTS
    counts = [int(d) if isinstance(d, (int, np.integer)) else other
              for d, other in zip(maps.shape[1:], (channels, _CELLS, _CELLS), strict=True)]  # fmt: skip
    rng = np.random.Generator(np.random.Philox(_SEED))
    for rows in (len(_BOXES), 1):
        logits = rng.normal(0, 1, (rows, *counts)).astype(np.float32)
        places, clear = decoding.keypoints(logits, _BOXES[:rows], _CLEAR)
        feeds = {maps.name: logits, boxes.name: _BOXES[:rows]}
        try:
            answers = evaluate(graph, [*outputs, *given], feeds)
        except Refusal as error:
            raise Refusal("keypoints are decoded here of more than heatmaps and the boxes that are given out: export the "
                          f"heatmaps instead ({error})", loop.name) from error  # fmt: skip
        points = np.concatenate([places[..., :2], np.ones_like(places[..., :1])], 2)
        for output, found in zip(outputs, answers, strict=False):
            wanted = points if len(output.shape) == 3 else places[..., 2]
            if found.shape != wanted.shape or np.abs(found - wanted)[clear].max(initial=0) > _SAME:
                raise Refusal(f"output {output.name!r} does not hold keypoints as torchvision's heatmaps_to_keypoints decodes "
                              "them: export the heatmaps instead", output.inputs[0].name)  # fmt: skip
        given = [t for t, found in zip(given, answers[len(outputs) :], strict=True) if np.array_equal(found, _BOXES[:rows])]
    if len(given) != 1:
        raise Refusal("keypoints are decoded here of other boxes than those that are given out: export the heatmaps instead",
                      loop.name)  # fmt: skip
