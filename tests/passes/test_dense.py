"""dense-decode and dense-nms."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers import dense_members
from helpers.stages import SIZE, Stages, detect, run_unordered, same

from onnxgraft.detector.outputs import Role
from onnxgraft.errors import PassError
from onnxgraft.instruments.stage import stage_detections
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import PLUGIN_DOMAIN, Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes import DenseDecode, DenseNMS
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections
from onnxgraft.targets import OrtRunner

FAMILIES = ["retinanet", "fcos"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dense")


@pytest.fixture(scope="module", params=FAMILIES)
def dense(request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """A golden dense detector after each pass."""
    family = request.param
    return Stages(dense_members.model(family, cache), dense_members.golden_picture(family), tmp_path_factory.mktemp(family))


def family_of(stages: Stages) -> str:
    return stages.before_pass("dense-decode")[1].spec().family


def test_detections_are_pytorchs(dense: Stages) -> None:
    stored = dense_members.answers(family_of(dense))
    assert len(stored) > 50
    report = match(stored, dense.detections("name-outputs"))
    assert report.exact, report
    assert report.box_px < 5e-3


def test_each_pass_changes_no_detection(dense: Stages) -> None:
    """RetinaNet's raw export does not run where a level has no candidates (a Reshape of nothing), as on this picture."""
    first = [] if family_of(dense) == "retinanet" else [("inject-anchors", "dense-decode")]
    for before, after in (*first, ("dense-decode", "dense-nms"), ("dense-nms", "name-outputs")):
        assert dense.report[after].changed
        assert same(dense.detections(before), dense.detections(after)) is None, after


def test_an_r_cnn_is_left_alone(stages: Stages) -> None:
    assert not stages.report["dense-decode"].changed
    assert not stages.report["dense-nms"].changed


@pytest.mark.parametrize("level", [1, 3])  # more anchors than the top-k keeps, and fewer
def test_the_best_pairs_of_a_level_are_selected_and_decoded(dense: Stages, level: int) -> None:
    """Against a ranking of all scores of the level and the formulas, in float64."""
    graph, ctx = dense.before_pass("dense-decode")
    head = ctx.spec().dense
    assert head is not None
    head = dataclasses.replace(head, levels=tuple(dataclasses.replace(each, topk=100) for each in head.levels))
    part = head.levels[level]
    ctx.detector = dataclasses.replace(ctx.spec(), dense=head)
    run_unordered([DenseDecode()], graph, ctx)
    rng = np.random.default_rng(5)
    shapes = {part.logits_tensor: head.num_classes, part.deltas_tensor: 4, part.centerness_tensor: 1}
    rows = part.height * part.width * part.anchors
    by_anchor = {n: rng.normal(0, 1.5, (rows, k)).astype(np.float32) for n, k in shapes.items() if n}
    by_anchor[part.deltas_tensor][::7] *= 9  # beyond the scale clamp
    grid = (part.height, part.width, part.anchors)
    feeds = {n: np.ascontiguousarray(v.reshape(*grid, -1).transpose(2, 3, 0, 1).reshape(1, -1, *grid[:2]))
             for n, v in by_anchor.items()}  # fmt: skip
    made = ctx.values.levels[level]
    outputs = [graph.tensor(name) for name in (made.boxes, made.scores, str(made.classes))]
    boxes, scores, classes = (found[0] for found in evaluate(graph, outputs, feeds))

    wide = {name: values.astype(np.float64) for name, values in by_anchor.items()}
    expected = 1 / (1 + np.exp(-wide[part.logits_tensor]))
    if part.centerness_tensor:
        expected = np.sqrt(expected / (1 + np.exp(-wide[part.centerness_tensor])))
    order = np.argsort(-expected.reshape(-1), kind="stable")[:100]
    anchor = ctx.anchors[level][order // head.num_classes].astype(np.float64)
    np.testing.assert_array_equal(classes, order % head.num_classes)
    np.testing.assert_allclose(scores, expected.reshape(-1)[order], rtol=1e-5)
    d = wide[part.deltas_tensor][order // head.num_classes]
    size, centre = anchor[:, 2:] - anchor[:, :2], (anchor[:, 2:] + anchor[:, :2]) / 2
    if head.coder is None:
        d = np.maximum(d, 0)
        wanted = np.concatenate([centre - d[:, :2] * size, centre + d[:, 2:] * size], 1)
    else:
        centre, size = d[:, :2] * size + centre, np.exp(np.minimum(d[:, 2:], np.log(1000 / 16))) * size
        wanted = np.concatenate([centre - size / 2, centre + size / 2], 1)
    np.testing.assert_allclose(boxes, wanted, rtol=2e-5, atol=2e-3)


def test_anchors_are_ranked_before_their_classes(dense: Stages) -> None:
    """No TopK reads every score of the finest level."""
    graph, ctx = dense.after_pass("name-outputs")
    level = ctx.spec().dense.levels[0]  # type: ignore[union-attr]
    rows = level.height * level.width * level.anchors
    assert max(node.inputs[0].shape[1] for node in graph.nodes if node.op == "TopK") <= max(rows, 1000 * 7)
    assert dense.report["dense-decode"].statistics["scores not ranked"] == sum(len(a) for a in ctx.anchors) * 6


def test_the_plugin_says_what_detectron2_does(dense: Stages) -> None:
    graph, ctx = dense.after_pass("dense-nms")
    head = ctx.spec().dense
    assert head is not None
    (nms,) = [node for node in graph.nodes if node.domain == PLUGIN_DOMAIN]
    assert nms.op == "EfficientNMS_TRT"
    assert np.float32(nms.attrs["score_threshold"]) == np.nextafter(np.float32(head.score_threshold), np.float32(1))
    assert np.float32(nms.attrs["iou_threshold"]) == np.nextafter(np.float32(head.nms_threshold), np.float32(1))
    assert (nms.attrs["max_output_boxes"], nms.attrs["class_agnostic"], nms.attrs["score_activation"]) == (100, 0, 0)
    total = sum(min(1000, len(anchors) * 7) for anchors in ctx.anchors)
    assert nms.inputs[0].shape == [1, total, 4]
    assert nms.inputs[1].shape == [1, total, 7]


def test_boxes_without_area_are_dropped_and_the_rest_moves_up(dense: Stages, tmp_path: Path) -> None:
    """The plugin keeps boxes that lie outside the image; what follows must not count them, nor leave a gap."""
    graph, ctx = dense.after_pass("dense-nms")
    nms = next(node for node in graph.nodes if node.op == "EfficientNMS_TRT")
    given = np.zeros((1, 100, 4), np.float32)
    given[0, :5] = [[10, 20, 60, 80], [-50, -60, -10, 90], [300, 10, 400, 300], [5, 256, 50, 400], [7, 8, 9, 10]]
    scores = np.zeros((1, 100), np.float32)
    scores[0, :5] = [0.9, 0.8, 0.7, 0.6, 0.5]
    classes = np.zeros((1, 100), np.int32)
    classes[0, :5] = [3, 1, 2, 5, 4]
    feeds = dict(zip((t.name for t in nms.outputs[1:]), (given, scores, classes), strict=True))
    roles = (Role.NUM_DETECTIONS, Role.BOXES, Role.SCORES, Role.CLASSES)
    outputs = [graph.tensor(ctx.values.results[role]) for role in roles]
    count, boxes, best, labels = evaluate(graph, outputs, feeds)
    assert count.tolist() == [[3]]
    np.testing.assert_array_equal(boxes[0, :4], [[10, 20, 60, 80], [300, 10, 320, 256], [7, 8, 9, 10], [0, 0, 0, 0]])
    np.testing.assert_array_equal(best[0, :4], np.array([0.9, 0.7, 0.5, 0], np.float32))
    assert labels[0, :4].tolist() == [3, 2, 4, 0]
    assert not boxes[0, 3:].any()
    assert not best[0, 3:].any()


def test_overrides(dense: Stages, tmp_path: Path) -> None:
    """Suppression is greedy: a higher threshold or fewer detections leave the best of the same ones."""
    plain = dense.detections("name-outputs")
    threshold = float(plain.scores[30])
    graph, ctx, _ = dense.go_on("dense-nms", f"dense-nms{{score-threshold={threshold!r}}}")
    found = detect(graph, ctx, dense.image, tmp_path)
    assert same(found, plain.select(plain.scores > np.float32(threshold))) is None
    assert 0 < len(found) <= 30
    graph, ctx, _ = dense.go_on("dense-nms", "dense-nms{detections=12}")
    found = detect(graph, ctx, dense.image, tmp_path)
    assert 6 < len(found) <= 12
    assert same(found, plain.select(slice(0, len(found)))) is None
    graph, ctx, _ = dense.go_on("dense-nms", "dense-nms{iou-threshold=0.2}", until="dense-nms")
    (nms,) = [node for node in graph.nodes if node.domain == PLUGIN_DOMAIN]
    assert np.float32(nms.attrs["iou_threshold"]) == np.nextafter(np.float32(0.2), np.float32(1))


def test_a_threshold_of_nothing_gives_no_detections_that_do_not_exist(dense: Stages, tmp_path: Path) -> None:
    """EfficientNMS_TRT fills up with rejected boxes below a threshold of 0.007."""
    graph, ctx, _ = dense.go_on("dense-nms", "dense-nms{score-threshold=0.0,detections=3000}")
    found = detect(graph, ctx, dense.image, tmp_path)
    assert len(found) > len(dense.detections("name-outputs"))
    assert (found.scores > 0).all()


def test_more_candidates_than_the_plugin_takes(dense: Stages, tmp_path: Path) -> None:
    graph, ctx = dense.before_pass("dense-decode")
    head = ctx.spec().dense
    assert head is not None
    levels = tuple(dataclasses.replace(level, topk=3000) for level in head.levels)
    ctx.detector = dataclasses.replace(ctx.spec(), dense=dataclasses.replace(head, levels=levels))
    run_unordered([DenseDecode(), DenseNMS()], graph, ctx)
    (nms,) = [node for node in graph.nodes if node.domain == PLUGIN_DOMAIN]
    total = nms.inputs[0].shape[1]
    assert total > 5000
    assert nms.op == "UncappedNMS"
    report = match(dense.detections("name-outputs"), detect(graph, ctx, dense.image, tmp_path))
    assert report.exact, report


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt-rtx"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_so_many_single_images(family: str, target: str, cache: Path, tmp_path: Path) -> None:
    images = [dense_members.golden_picture(family), dense_members.picture(77)]
    found = compiled(dense_members.model(family, cache), tmp_path, target, images)
    for image, together in zip(images, found, strict=True):
        (alone,) = compiled(dense_members.model(family, cache), tmp_path, "onnxruntime", [image])
        report = match(alone, together)
        assert report.exact, report
    assert len(found[0]) > 50


def compiled(model: Path, folder: Path, target: str, images: list[np.ndarray]) -> list[Detections]:
    graph, ctx = Graph.load(model), Context()
    options = CompileOptions(size=SIZE, batch=len(images))
    PassManager(default_pipeline(options, target).passes, fingerprints=False).run(graph, ctx)
    graph.save(folder / "batch.onnx")
    stacked = np.stack([image.transpose(2, 0, 1) for image in images]).astype(np.float32)
    outputs = OrtRunner(folder / "batch.onnx")({"input_tensor": stacked})
    each = [{name: value[i : i + 1] for name, value in outputs.items()} for i in range(len(images))]
    return [stage_detections(part, ctx) for part in each]


def test_a_second_run_is_refused(dense: Stages) -> None:
    """What the pass rewrites is gone: it does not silently decode anything else."""
    graph, ctx = dense.after_pass("dense-nms")
    with pytest.raises(PassError, match="'dense-decode': the graph has no tensor"):
        run_unordered([DenseDecode()], graph, ctx)


def padded(model: Path, folder: Path, picture: np.ndarray, canvas: tuple[int, int], exact: bool) -> Detections:
    graph, ctx = Graph.load(model), Context()
    options = CompileOptions(size=canvas, image_sizes=True, exact_padding=exact)
    PassManager(default_pipeline(options, "onnxruntime").passes, fingerprints=False).run(graph, ctx)
    graph.save(folder / "padded.onnx")
    image = np.zeros((1, 3, *canvas), np.float32) + np.array(ctx.spec().image.mean, np.float32)[:, None, None]
    height, width = picture.shape[:2]
    image[0, :, :height, :width] = picture.transpose(2, 0, 1)
    sizes = np.array([[height, width]], np.float32)
    return stage_detections(OrtRunner(folder / "padded.onnx")({"input_tensor": image, "image_sizes": sizes}), ctx)


def test_exact_padding(cache: Path, tmp_path: Path) -> None:
    """RetinaNet answers the same on any canvas; the group norms of FCOS's head average over the canvas."""
    model, picture = dense_members.model("retinanet", cache), dense_members.golden_picture("retinanet")[:236, :300]
    alone = padded(model, tmp_path, picture, (256, 320), False)
    assert len(alone) > 20
    assert match(alone, padded(model, tmp_path, picture, (416, 448), True)).exact
    assert not match(alone, padded(model, tmp_path, picture, (416, 448), False)).exact
    with pytest.raises(PassError, match=r"'mask-padding': this .* reads the whole canvas, so the padding cannot be kept out"):
        padded(dense_members.model("fcos", cache), tmp_path, picture, (416, 448), True)
