"""dense-decode and dense-nms on SSD, whose classes each rank all anchors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.members import picture
from helpers.stages import SIZE, Stages, detect, run_unordered, same

from onnxgraft.detector.outputs import Role
from onnxgraft.errors import PassError
from onnxgraft.golden import catalog
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import PLUGIN_DOMAIN
from onnxgraft.options import CompileOptions
from onnxgraft.passes import DenseDecode
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.proof.cut import Cut

MEMBER = "ssd_torchvision_thin"
ANCHORS, CLASSES, KEPT = 7668, 7, 100


@pytest.fixture(scope="module")
def ssd(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    folder = tmp_path_factory.mktemp("ssd")
    return Stages(catalog.resolve(MEMBER, folder), picture(MEMBER), folder)


def test_each_pass_changes_no_detection(ssd: Stages) -> None:
    for before, after in (("inject-anchors", "dense-decode"), ("dense-decode", "dense-nms"), ("dense-nms", "name-outputs")):
        assert ssd.report[after].changed
        assert same(ssd.detections(before), ssd.detections(after)) is None, after
    assert len(ssd.detections("name-outputs")) == KEPT


def test_the_anchors_of_all_levels_are_the_exports(ssd: Stages) -> None:
    """Bit for bit, though their steps are fractions of a pixel on one level."""
    graph, ctx = ssd.before_pass("inject-anchors")
    dense = ctx.spec().dense
    assert dense is not None
    own = evaluate(graph, [graph.tensor(dense.levels[0].anchors_tensor)])[0].reshape(-1, 4)
    injected = ssd.after_pass("inject-anchors")[1].anchors
    assert [len(level) for level in injected] == [5120, 1920, 480, 120, 24, 4]
    np.testing.assert_array_equal(np.concatenate(injected), own)


def maps(ctx: Context, logits: np.ndarray, deltas: np.ndarray) -> dict[str, np.ndarray]:
    """Rows [anchors, C + 1] and [anchors, 4] as the maps of all levels."""
    feeds, start = {}, 0
    dense = ctx.spec().dense
    for level in dense.levels if dense is not None else ():
        end = start + level.height * level.width * level.anchors
        for name, rows in ((level.logits_tensor, logits), (level.deltas_tensor, deltas)):
            planes = rows[start:end].reshape(1, level.height, level.width, -1).transpose(0, 3, 1, 2)
            feeds[name] = np.ascontiguousarray(planes, np.float32)
        start = end
    assert start == ANCHORS
    return feeds


def test_the_best_anchors_of_each_class_are_selected_and_decoded(ssd: Stages) -> None:
    """Against a ranking of all scores and the formulas, in float64; of equal scores the first ones come first."""
    graph, ctx = ssd.after_pass("dense-decode")
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1.5, (ANCHORS, CLASSES + 1)).astype(np.float32)
    logits[5000:5200] = logits[4000:4200]  # ties, of another level
    deltas = rng.normal(0, 1.5, (ANCHORS, 4)).astype(np.float32)
    deltas[::7] *= 9  # beyond the scale clamp
    (made,) = ctx.values.levels
    outputs = [graph.tensor(name) for name in (made.boxes, made.scores, str(made.classes))]
    found = evaluate(graph, outputs, maps(ctx, logits, deltas))
    boxes, scores, classes = (each[0].reshape(CLASSES, KEPT, -1) for each in found)

    power = np.exp(logits.astype(np.float64))
    wanted = (power / power.sum(1, keepdims=True))[:, 1:]
    anchors, d = np.concatenate(ctx.anchors).astype(np.float64), deltas.astype(np.float64)
    size, centre = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
    centre, size = d[:, :2] / 10 * size + centre, np.exp(np.minimum(d[:, 2:] / 5, np.log(1000 / 16))) * size
    decoded = np.clip(np.concatenate([centre - size / 2, centre + size / 2], 1), 0, [320, 256, 320, 256])
    for label in range(CLASSES):
        order = np.argsort(-wanted[:, label], kind="stable")[:KEPT]
        np.testing.assert_allclose(scores[label, :, 0], wanted[order, label], rtol=1e-5)
        np.testing.assert_allclose(boxes[label], decoded[order], rtol=2e-5, atol=2e-3)
        assert (classes[label] == label).all()


def test_the_classes_are_the_batch_of_one_plugin(ssd: Stages) -> None:
    graph, _ = ssd.after_pass("dense-nms")
    (nms,) = [node for node in graph.nodes if node.domain == PLUGIN_DOMAIN]
    assert nms.op == "EfficientNMS_TRT"
    assert [t.shape for t in nms.inputs] == [[CLASSES, KEPT, 4], [CLASSES, KEPT, 1]]
    assert np.float32(nms.attrs["iou_threshold"]) == np.nextafter(np.float32(0.45), np.float32(1))
    assert (nms.attrs["score_threshold"], nms.attrs["max_output_boxes"], nms.attrs["score_activation"]) == (0.5, KEPT, 0)


def test_what_meets_the_threshold_is_not_above_it_and_unused_rows_are_zero(ssd: Stages) -> None:
    """One box in two classes is found in both; one class does not suppress another."""
    graph, ctx = ssd.after_pass("dense-nms")
    starts = ["dense/nms/boxes_of_classes", "dense/nms/scores_of_classes"]
    ends = [ctx.values.results[role] for role in (Role.NUM_DETECTIONS, Role.BOXES, Role.SCORES, Role.CLASSES)]
    at = np.float32(0.01)
    scores = np.zeros((CLASSES, KEPT), np.float32)
    scores[2, :3], scores[5, :2] = [0.9, 0.8, at], [0.85, np.nextafter(at, np.float32(1))]
    given = np.zeros((CLASSES, KEPT, 4), np.float32)
    given[2, :3] = [[10, 20, 60, 80], [100, 20, 160, 80], [200, 100, 250, 150]]
    given[5, :2] = [[10, 20, 60, 80], [11, 120, 60, 180]]
    count, boxes, best, classes = Cut(graph, starts, ends)(dict(zip(starts, (given, scores), strict=True))).values()
    assert count.tolist() == [[4]]
    np.testing.assert_array_equal(boxes[0, :4], given[[2, 5, 2, 5], [0, 0, 1, 1]])
    np.testing.assert_array_equal(best[0, :4], scores[[2, 5, 2, 5], [0, 0, 1, 1]])
    assert classes[0, :4].tolist() == [2, 5, 2, 5]
    for rest in (boxes, best, classes):
        assert not rest[0, 4:].any()


def test_overrides(ssd: Stages, tmp_path: Path) -> None:
    """Suppression is greedy: a higher threshold or fewer detections leave the best of the same ones."""
    plain = ssd.detections("name-outputs")
    threshold = float(plain.scores[30])
    graph, ctx, _ = ssd.go_on("dense-nms", f"dense-nms{{score-threshold={threshold!r}}}")
    assert same(detect(graph, ctx, ssd.image, tmp_path), plain.select(plain.scores > np.float32(threshold))) is None
    graph, ctx, _ = ssd.go_on("dense-nms", "dense-nms{detections=12}")
    assert same(detect(graph, ctx, ssd.image, tmp_path), plain.select(slice(12))) is None
    graph, ctx, _ = ssd.go_on("dense-nms", "dense-nms{iou-threshold=0.2}")
    fewer = detect(graph, ctx, ssd.image, tmp_path)
    assert same(fewer, plain) is not None
    graph, ctx, _ = ssd.go_on("dense-nms", "dense-nms{detections=3000}")
    assert 100 < len(detect(graph, ctx, ssd.image, tmp_path)) <= CLASSES * KEPT


def test_a_second_run_is_refused(ssd: Stages) -> None:
    graph, ctx = ssd.after_pass("dense-nms")
    with pytest.raises(PassError, match="'dense-decode': the graph has no tensor"):
        run_unordered([DenseDecode()], graph, ctx)


def test_exact_padding_is_refused(ssd: Stages) -> None:
    """A softmax of the lowest logits for all classes is the same share for each: detections where there is nothing."""
    graph, ctx = ssd.after_pass("input")
    steps = default_pipeline(CompileOptions(size=SIZE, exact_padding=True), "onnxruntime").passes
    with pytest.raises(PassError, match=r"'mask-padding': SSD's scores are a softmax .* without --exact-padding"):
        PassManager(steps).run(graph, ctx)
