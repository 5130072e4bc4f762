"""keypoint-head, and the names of what segmentation and keypoint heads give."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers.graphs import parse_graph, run_graph
from helpers.stages import run_unordered

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import DetectorSpec, ImageInput, KeypointHead, Outputs, SemanticHead
from onnxgraft.errors import PassError
from onnxgraft.ir.graph import Graph
from onnxgraft.passes import KeypointHead as KeypointPass
from onnxgraft.passes import NameOutputs
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.values import DetectorValues

# Two images of three detections, two keypoints, heatmaps of 4 x 4; the rows of all images follow one another.
GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[6, 2, 4, 4] x, int32[2, 3] kinds, float[2, 5, 8, 8] map)
  => (int32[2, 1] count, float[2, 3, 4] boxes, float[2, 3] scores, int32[2, 3] classes, float[6, 2, 4, 4] heat,
      float[2, 5, 8, 8] logits, float[6, 2, 4, 4] aside)
<int32[2, 1] two = {2, 2}, float[1] one = {1.0}, int64[3] as_boxes = {2, 3, 4}, int64[2] as_scores = {2, 3}>
{
  count = Identity(two)
  boxes = Expand(one, as_boxes)
  scores = Expand(one, as_scores)
  classes = Identity(kinds)
  heat = Relu(x)
  aside = Neg(heat)
  logits = Neg(map)
}
"""


def detector() -> DetectorSpec:
    image = ImageInput("x", 32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "BGR", True, "x")
    return DetectorSpec(
        family="keypoint-rcnn", image=image, outputs=Outputs("boxes", "scores", "classes", None, "heat", "logits"),
        keypoint_head=KeypointHead(keypoints=2, resolution=4, logits_tensor="heat"),
        semantic=SemanticHead(num_classes=5, stride=4, logits_tensor="logits"),
    )  # fmt: skip


def given() -> tuple[Graph, Context]:
    ctx = Context(batch=2, detector=detector())
    named = {role: role.value for role in (Role.BOXES, Role.SCORES, Role.CLASSES)}
    ctx.values = DetectorValues(named | {Role.NUM_DETECTIONS: "count", Role.HEATMAPS: "heat"})
    return parse_graph(GRAPH), ctx


FEEDS = {
    "x": np.arange(6 * 2 * 16, dtype=np.float32).reshape(6, 2, 4, 4),
    "kinds": np.zeros((2, 3), np.int32),
    "map": np.ones((2, 5, 8, 8), np.float32),
}


def test_heatmaps_come_in_rows_of_the_detections(tmp_path: Path) -> None:
    graph, ctx = given()
    assert run_unordered([KeypointPass()], graph, ctx).records[0].changed
    outputs = dict(zip([t.name for t in graph.gs.outputs], run_graph(graph, FEEDS, tmp_path), strict=True))
    heatmaps = outputs[ctx.values.results[Role.HEATMAPS]]
    assert graph.tensor(ctx.values.results[Role.HEATMAPS]).shape == [2, 3, 2, 4, 4]
    np.testing.assert_array_equal(heatmaps[1, 2, 1], FEEDS["x"][5, 1])
    np.testing.assert_array_equal(heatmaps.reshape(6, 2, 4, 4), FEEDS["x"])


def test_another_reader_of_the_heatmaps_keeps_them(tmp_path: Path) -> None:
    graph, ctx = given()
    run_unordered([KeypointPass()], graph, ctx)
    assert [t.name for t in graph.gs.outputs][-1] == "aside"
    np.testing.assert_array_equal(run_graph(graph, FEEDS, tmp_path)[-1], -FEEDS["x"])


def test_a_second_run_changes_nothing() -> None:
    graph, ctx = given()
    run_unordered([KeypointPass()], graph, ctx)
    assert not run_unordered([KeypointPass()], graph, ctx).records[0].changed


def test_a_detector_without_keypoints_is_left_alone() -> None:
    graph, ctx = given()
    ctx.detector = dataclasses.replace(detector(), keypoint_head=None)
    assert not run_unordered([KeypointPass()], graph, ctx).records[0].changed


def test_it_needs_detections() -> None:
    with pytest.raises(PassError) as refused:
        PassManager([KeypointPass()])
    assert str(refused.value) == "pass 'keypoint-head': requires 'detections'; no pass of this pipeline provides it"


def test_outputs_are_named_in_order(tmp_path: Path) -> None:
    graph, ctx = given()
    run_unordered([KeypointPass(), NameOutputs()], graph, ctx)
    assert [t.name for t in graph.gs.outputs] == [
        "num_detections", "detection_boxes", "detection_scores", "detection_classes", "detection_keypoint_heatmaps",
        "semantic_logits",
    ]  # fmt: skip
    assert ctx.io.outputs["detection_keypoint_heatmaps"] == (2, 3, 2, 4, 4)
    np.testing.assert_array_equal(run_graph(graph, FEEDS, tmp_path)[-1], -FEEDS["map"])
    assert ctx.current("logits") == "semantic_logits"


def test_a_network_that_only_segments_has_only_logits() -> None:
    graph, ctx = given()
    ctx.values = DetectorValues()
    ctx.detector = dataclasses.replace(detector(), keypoint_head=None)
    run_unordered([KeypointPass(), NameOutputs()], graph, ctx)
    assert [t.name for t in graph.gs.outputs] == ["semantic_logits"]
    assert run_unordered([NameOutputs()], graph, ctx).records[0].changed is False
