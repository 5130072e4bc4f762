"""decode-boxes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.stages import Stages, run_unordered, same

from onnxgraft.errors import PassError
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.passes import DecodeBoxes
from onnxgraft.pipeline.manager import PassManager

LEVEL = 4  # stride 64: 4 x 5 locations, 60 anchors, all of which pass the top-k


def proposals(anchors: np.ndarray, logits: np.ndarray, deltas: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """find_top_rpn_proposals of one level before NMS, in float64: boxes and scores, best first; -inf where dropped."""
    order = np.argsort(-logits, kind="stable")
    a, d = anchors[order].astype(np.float64), deltas[order].astype(np.float64)
    size, centre = a[:, 2:] - a[:, :2], (a[:, 2:] + a[:, :2]) / 2
    with np.errstate(all="ignore"):
        new = d[:, :2] * size + centre
        extent = np.exp(np.minimum(d[:, 2:], np.log(1000 / 16))) * size
        boxes = np.concatenate([new - extent / 2, new + extent / 2], 1)
        finite = np.isfinite(boxes.astype(np.float32)).all(1)
        boxes = np.clip(boxes, 0, [320, 256, 320, 256])
        keep = finite & ((boxes[:, 2:] - boxes[:, :2]).astype(np.float32) > side).all(1)
    return boxes, np.where(keep, logits[order], -np.inf)


def run_level(stages: Stages, logits: np.ndarray, deltas: np.ndarray, side: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The pass's boxes and scores of one level, for logits [60] and deltas [60, 4] in anchor order."""
    graph, ctx = stages.before_pass("decode-boxes")
    ctx.detector = dataclasses.replace(ctx.spec(), rpn=dataclasses.replace(ctx.spec().rpn, min_box_size=side))
    run_unordered([DecodeBoxes()], graph, ctx)
    level = ctx.spec().rpn.levels[LEVEL]
    outputs = [graph.tensor(name) for name in (ctx.values.levels[LEVEL].boxes, ctx.values.levels[LEVEL].scores)]
    feeds = {
        level.logits_tensor: logits.reshape(1, 4, 5, 3).transpose(0, 3, 1, 2),
        level.deltas_tensor: deltas.reshape(1, 4, 5, 12).transpose(0, 3, 1, 2),
    }
    boxes, scores = evaluate(graph, outputs, {k: np.ascontiguousarray(v, np.float32) for k, v in feeds.items()})
    return boxes[0], scores[0]


def test_fires_and_changes_no_detection(stages: Stages) -> None:
    record = stages.report["decode-boxes"]
    assert record.changed
    assert record.statistics["anchors decoded"] == 1000 + 1000 + 960 + 240 + 60
    assert record.statistics["anchors left undecoded"] == 20460 - 3260
    assert same(stages.detections("inject-anchors"), stages.detections("decode-boxes")) is None


@pytest.mark.parametrize("side", [0.0, 40.0])
def test_boxes_are_decoded_clamped_clipped_and_ruled_out(stages: Stages, side: float) -> None:
    rng = np.random.default_rng(3)
    logits = rng.permutation(np.linspace(-9, 9, 60)).astype(np.float32)
    deltas = rng.normal(0, 0.4, (60, 4)).astype(np.float32)
    deltas[3] = [0, 0, 50, 50]  # beyond the clamp
    deltas[7] = [0, 0, np.inf, 0]  # clamped: a finite box
    deltas[11] = [np.nan, 0, 0, 0]
    deltas[12] = [np.inf, 0, 0, 0]
    deltas[20] = [9, 0, 0, 0]  # outside the image: empty after clipping
    deltas[21] = [-9, -9, 0, 0]
    deltas[30] = [0, 0, -90, -90]  # no extent
    deltas[31] = [3e38, 3e38, 0, 0]
    _, ctx = stages.before_pass("decode-boxes")
    anchors = ctx.anchors[LEVEL]
    boxes, scores = run_level(stages, logits, deltas, side)
    wanted, wanted_scores = proposals(anchors, logits, deltas, side)
    kept = wanted_scores > -np.inf
    assert 20 < kept.sum() < 58
    np.testing.assert_array_equal(scores > -1000, kept)
    np.testing.assert_array_equal(scores[kept], wanted_scores[kept].astype(np.float32))
    np.testing.assert_allclose(boxes[kept], wanted[kept], rtol=0, atol=2e-3)


def test_an_anchor_needs_its_constants_first() -> None:
    with pytest.raises(PassError) as refused:
        PassManager([DecodeBoxes()])
    assert str(refused.value) == "pass 'decode-boxes': requires 'anchors'; no pass of this pipeline provides it"


def test_the_exports_decoding_is_gone(stages: Stages) -> None:
    graph, ctx = stages.after_pass("decode-boxes")
    before, _ = stages.before_pass("decode-boxes")
    growths = [[n.name for n in g.nodes if n.op == "Exp"] for g in (before, graph)]
    assert len(growths[0]) == 5 * 2 + 2  # of dw and dh: every level and the box head
    assert [name.startswith("rpn/") for name in sorted(growths[1])] == [False] * 2 + [True] * 5
    for level in ctx.spec().rpn.levels:
        (topk,) = [n for n in graph.nodes if n.op == "TopK" and n.name.startswith(f"rpn/stride{level.stride}/")]
        assert topk.outputs[0].shape == [1, level.topk]
