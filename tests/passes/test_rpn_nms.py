"""rpn-nms."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from helpers.stages import Stages, detect, run_unordered, same

from onnxgraft.ir.graph import PLUGIN_DOMAIN, Graph
from onnxgraft.passes import RpnNMS
from onnxgraft.pipeline.context import Context
from onnxgraft.targets import OrtRunner


def intermediate(graph: Graph, names: list[str], image: np.ndarray, folder: Path) -> list[np.ndarray]:
    """Values of tensors inside the graph, on one image."""
    tensors = [graph.tensor(name) for name in names]
    graph.gs.outputs[:] = tensors
    graph.save(folder / "inner.onnx")
    name = graph.gs.inputs[0].name
    found = OrtRunner(folder / "inner.onnx")({name: image.transpose(2, 0, 1)[None].astype(np.float32)})
    return [found[t.name] for t in tensors]


def test_fires_and_changes_no_detection(stages: Stages) -> None:
    assert stages.report["rpn-nms"].changed
    assert same(stages.detections("decode-boxes"), stages.detections("rpn-nms")) is None


def test_the_plugin_says_what_detectron2_does(stages: Stages) -> None:
    graph, _ = stages.after_pass("rpn-nms")
    (nms,) = [node for node in graph.nodes if node.op == "EfficientNMS_TRT"]
    assert nms.domain == PLUGIN_DOMAIN
    assert nms.attrs["score_threshold"] == 0.5  # of ranks
    assert np.float32(nms.attrs["iou_threshold"]) == np.nextafter(np.float32(0.7), np.float32(1))
    assert nms.attrs["max_output_boxes"] == 1000
    assert nms.attrs["class_agnostic"] == 0
    assert nms.attrs["score_activation"] == 0
    assert nms.inputs[0].shape == [5, 1000, 4]  # an image per level, of which the two coarsest are filled up
    assert nms.inputs[1].shape == [5, 1000, 1]


def test_proposals_are_suppressed_within_levels_only(stages: Stages, tmp_path: Path) -> None:
    """Against a plain greedy NMS per level over the boxes that enter."""
    graph, ctx = stages.after_pass("rpn-nms")
    made = ctx.values.proposals
    names = [name for level in ctx.values.levels for name in (level.boxes, level.scores)] + [made.boxes, made.valid]
    assert len(names) == 12
    *entering, proposals, valid = intermediate(graph, names, stages.image, tmp_path)
    kept = []
    for boxes, scores in zip(entering[0::2], entering[1::2], strict=True):
        kept += [(s, tuple(b)) for b, s in greedy(boxes[0], scores[0], 0.7)]
    kept.sort(key=lambda row: -row[0])
    assert valid[0].tolist() == [True] * min(1000, len(kept)) + [False] * max(0, 1000 - len(kept))
    assert not proposals[~valid].any()
    wanted = np.array([box for _, box in kept[:1000]])
    np.testing.assert_allclose(proposals[0, : len(wanted)], wanted, rtol=0, atol=1e-4)


def greedy(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[tuple[np.ndarray, float]]:
    kept: list[int] = []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] < -1000:
            continue
        low, high = np.maximum(boxes[i, :2], boxes[kept, :2]), np.minimum(boxes[i, 2:], boxes[kept, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        if not (shared / (area[i] + area[kept] - shared) > threshold).any():
            kept.append(int(i))
    return [(boxes[i], float(scores[i])) for i in kept]


def test_a_score_threshold_is_an_option(stages: Stages, tmp_path: Path) -> None:
    counts = []
    for threshold in (0.0, 0.3):
        graph, ctx = stages.before_pass("rpn-nms")
        run_unordered([RpnNMS(score_threshold=threshold)], graph, ctx)
        (valid,) = intermediate(graph, [ctx.values.proposals.valid], stages.image, tmp_path)
        counts.append(int(valid.sum()))
    assert 0 < counts[1] < counts[0]


def with_topk(stages: Stages, topk: int) -> tuple[Graph, Context]:
    """The stage before, as decode-boxes would have left it with more boxes a level."""
    graph, ctx = stages.before_pass("rpn-nms")
    levels = tuple(dataclasses.replace(level, topk=topk) for level in ctx.spec().rpn.levels)
    ctx.detector = dataclasses.replace(ctx.spec(), rpn=dataclasses.replace(ctx.spec().rpn, levels=levels))
    for level in ctx.values.levels:
        graph.tensor(level.boxes).shape, graph.tensor(level.scores).shape = [1, topk, 4], [1, topk]
    RpnNMS().run(graph, ctx)
    return graph, ctx


def test_the_plugins_cap_binds_each_level(stages: Stages) -> None:
    graph, _ = with_topk(stages, 2000)
    (nms,) = [node for node in graph.nodes if node.op == "EfficientNMS_TRT"]
    assert nms.inputs[0].shape == [5, 2000, 4]
    assert nms.attrs["max_output_boxes"] == 1000


def test_more_boxes_than_the_plugin_takes_need_no_cap(stages: Stages) -> None:
    graph, _ = with_topk(stages, 6000)
    (nms,) = [node for node in graph.nodes if node.op == "UncappedNMS"]
    assert nms.inputs[0].shape == [5, 6000, 4]
    assert not any(node.op == "EfficientNMS_TRT" for node in graph.nodes)


def test_one_level_is_its_own_best(stages: Stages, tmp_path: Path) -> None:
    """With the finest level alone nothing is chosen among levels; the network behind still runs."""
    graph, ctx = stages.before_pass("rpn-nms")
    rpn = dataclasses.replace(ctx.spec().rpn, levels=ctx.spec().rpn.levels[:1])
    ctx.detector = dataclasses.replace(ctx.spec(), rpn=rpn)
    ctx.values.levels = ctx.values.levels[:1]
    run_unordered([RpnNMS()], graph, ctx)
    (nms,) = [node for node in graph.nodes if node.op == "EfficientNMS_TRT"]
    assert nms.inputs[1].shape == [1, 1000, 1]
    assert ctx.values.proposals.boxes == nms.outputs[1].name
    assert len(detect(graph, ctx, stages.image, tmp_path)) > 0
