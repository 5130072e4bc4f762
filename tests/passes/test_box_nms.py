"""box-nms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.stages import Stages, detect, run_unordered, same

from onnxgraft.errors import PassError
from onnxgraft.passes import BoxNMS
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.detections import Detections


def run(stages: Stages, folder: Path, **options: float) -> Detections:
    graph, ctx = stages.before_pass("box-nms")
    run_unordered([BoxNMS(**options)], graph, ctx)  # type: ignore[arg-type]
    return detect(graph, ctx, stages.image, folder)


def test_fires_and_changes_no_detection(stages: Stages) -> None:
    assert stages.report["box-nms"].changed
    assert same(stages.detections("roi-align"), stages.detections("box-nms")) is None


def test_the_plugin_says_what_detectron2_does(stages: Stages) -> None:
    graph, _ = stages.after_pass("box-nms")
    _, nms = [node for node in graph.nodes if node.op == "EfficientNMS_TRT"]
    assert np.float32(nms.attrs["score_threshold"]) == np.nextafter(np.float32(0.05), np.float32(1))
    assert np.float32(nms.attrs["iou_threshold"]) == np.nextafter(np.float32(0.5), np.float32(1))
    assert nms.attrs["max_output_boxes"] == 100
    assert nms.inputs[0].shape == [1, 1000, 5, 4]  # a box per class
    assert nms.inputs[1].shape == [1, 1000, 5]  # no background


def test_the_exports_suppression_is_gone(stages: Stages) -> None:
    graph, _ = stages.after_pass("box-nms")
    assert not any(node.op in ("If", "NonMaxSuppression", "NonZero") for node in graph.nodes)
    for tensor in graph.gs.outputs:
        assert all(isinstance(d, int) for d in tensor.shape), tensor


def test_a_higher_score_threshold_keeps_the_better_ones(stages: Stages, tmp_path: Path) -> None:
    all_of_them = stages.detections("box-nms")
    keep = all_of_them.scores > 0.5
    assert 0 < keep.sum() < len(all_of_them)
    assert same(all_of_them.select(keep), run(stages, tmp_path, score_threshold=0.5)) is None


@pytest.mark.parametrize("threshold", [0.001, 0.0])
def test_what_failed_a_low_threshold_is_not_counted(threshold: float, stages: Stages, tmp_path: Path) -> None:
    """Below 0.007 the plugin gives out elements under the threshold, too, and counts them."""
    found = run(stages, tmp_path, score_threshold=threshold, detections=4000)
    assert len(stages.detections("box-nms")) < len(found) < 4000 + (threshold == 0)
    assert found.scores.min() > threshold


def test_a_low_threshold_is_lifted_to_where_little_is_sorted(stages: Stages, tmp_path: Path) -> None:
    """By 8: the scores come back bit for bit."""
    graph, ctx = stages.before_pass("box-nms")
    run_unordered([BoxNMS(score_threshold=0.001)], graph, ctx)
    _, nms = [node for node in graph.nodes if node.op == "EfficientNMS_TRT"]
    assert np.float32(nms.attrs["score_threshold"]) == 8 * np.nextafter(np.float32(0.001), np.float32(1))
    found, plain = detect(graph, ctx, stages.image, tmp_path), stages.detections("box-nms")
    best = found.scores[0], plain.scores[0]
    assert best[0] == best[1]


def test_fewer_detections_are_the_best_ones(stages: Stages, tmp_path: Path) -> None:
    assert same(stages.detections("box-nms").select(slice(7)), run(stages, tmp_path, detections=7)) is None


def test_a_lower_iou_threshold_keeps_fewer(stages: Stages, tmp_path: Path) -> None:
    found = run(stages, tmp_path, iou_threshold=0.1)
    assert 0 < len(found) < len(stages.detections("box-nms"))


def test_it_needs_pooled_features() -> None:
    with pytest.raises(PassError) as refused:
        PassManager([BoxNMS()])
    assert str(refused.value) == "pass 'box-nms': requires 'pooled'; no pass of this pipeline provides it"
