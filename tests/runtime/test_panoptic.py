"""Semantic maps and panoptic segments are those of detectron2; its answers are stored (data/make_runtime_maps.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxgraft.detector.panoptic import Combine
from onnxgraft.errors import InputError
from onnxgraft.evaluation.miou import MeanIoU, read_labels
from onnxgraft.golden import sidecars
from onnxgraft.manifest import GraphIO, ImageIO
from onnxgraft.quantization.sensitivity import damage
from onnxgraft.runtime import panoptic, semantic
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.draw import draw_panoptic, draw_semantic
from onnxgraft.runtime.images import Placement
from onnxgraft.runtime.masks import decode
from onnxgraft.runtime.postprocess import to_original
from onnxgraft.runtime.read_outputs import from_outputs, from_raw_export
from onnxgraft.runtime.session import ImageResult

STORED = np.load(Path(__file__).parents[1] / "data" / "runtime_maps.npz")
PLACEMENT = Placement((83, 125), (60, 90), (64, 96))
FINE = Combine(overlap_threshold=0.3, stuff_area_limit=200, instances_score_threshold=0.4)


def detections() -> Detections:
    return Detections.of(*(STORED[k] for k in ("boxes", "scores", "classes", "masks")), semantic=STORED["logits"])


def result(settings: Combine) -> ImageResult:
    d = detections()
    picture = np.full((*PLACEMENT.original, 3), 90, np.uint8)
    return ImageResult(None, picture, PLACEMENT, d, to_original(d, PLACEMENT), settings)


def test_every_pixel_gets_detectron2s_class() -> None:
    np.testing.assert_array_equal(semantic.labels(STORED["logits"], PLACEMENT), STORED["labels"])


@pytest.mark.parametrize(("name", "settings"), [("default", Combine()), ("fine", FINE)])
def test_segments_are_detectron2s(name: str, settings: Combine) -> None:
    found = result(settings).panoptic
    assert found is not None
    np.testing.assert_array_equal(found.ids, STORED[f"ids_{name}"])
    assert list(found.info) == json.loads(str(STORED[f"info_{name}"]))


def test_the_stored_cases_reach_every_branch() -> None:
    """A hidden instance, one under the score, stuff that is left out and stuff that is kept: otherwise nothing is tested."""
    fine, default = (json.loads(str(STORED[f"info_{n}"])) for n in ("fine", "default"))
    assert len({e["instance_id"] for e in fine + default if e["isthing"]}) >= 4
    assert any(e["isthing"] for e in fine)
    assert any(not e["isthing"] for e in fine)
    assert len([e for e in fine if e["isthing"]]) < 6
    assert not any(not e["isthing"] for e in default)


def test_without_a_semantic_head_there_are_no_segments() -> None:
    d = Detections.of(*(STORED[k] for k in ("boxes", "scores", "classes", "masks")))
    plain = ImageResult(None, np.zeros((4, 4, 3), np.uint8), PLACEMENT, d, to_original(d, PLACEMENT))
    assert plain.semantic is None
    assert plain.panoptic is None
    assert not plain.detects_nothing


def test_the_panoptic_picture_and_its_list_agree() -> None:
    found = result(FINE).panoptic
    assert found is not None
    entry = panoptic.to_json(found, "p/a.png")
    colours = panoptic.png_colours(found.ids).astype(int)
    ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
    np.testing.assert_array_equal(ids, found.ids)
    assert entry["file_name"] == "p/a.png"
    for segment in entry["segments_info"]:
        left, top, width, height = segment["bbox"]
        inside = ids[top : top + height, left : left + width] == segment["id"]
        assert segment["area"] == inside.sum() == (ids == segment["id"]).sum()
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
        assert ("score" in segment) == segment["isthing"]


def test_ids_above_255_fit_into_the_picture() -> None:
    np.testing.assert_array_equal(panoptic.png_colours(np.array([[300, 65536 * 2 + 7]])), [[[44, 1, 0], [7, 0, 2]]])


def test_semantic_classes_as_runs() -> None:
    labels = semantic.labels(STORED["logits"], PLACEMENT)
    entries = semantic.encode(labels)
    assert [e["category_id"] for e in entries] == np.unique(labels).tolist()
    for entry in entries:
        np.testing.assert_array_equal(decode(entry["segmentation"]), labels == entry["category_id"])


def test_pictures_show_segments_and_names() -> None:
    given = result(FINE)
    found, labels = given.panoptic, given.semantic
    assert found is not None
    assert labels is not None
    drawn = draw_panoptic(given.image, found, ["a", "b", "c"], ["things", "sky"])
    assert (given.image == 90).all()
    assert (drawn[found.ids > 0] != 90).any(axis=1).mean() > 0.99
    assert (draw_semantic(given.image, labels) != 90).any(axis=2).all()


def test_settings_come_from_a_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"config": {"panoptic": {"overlap_threshold": 0.3, "stuff_area_limit": 200}}}))
    assert sidecars.find("m.onnx", tmp_path / "m.onnx").panoptic == Combine(0.3, 200, 0.5)
    path.write_text(json.dumps({"config": {"panoptic": {"overlap_threshold": "half"}}}))
    with pytest.raises(InputError, match=r"m\.json: panoptic\.overlap_threshold is 'half', expected a number of at least 0"):
        sidecars.find("m.onnx", tmp_path / "m.onnx")


def test_outputs_of_a_compiled_graph() -> None:
    io = GraphIO(ImageIO("input_tensor", (2, 3, 64, 96)))
    logits = np.stack([STORED["logits"], STORED["logits"] + 1])
    alone = from_outputs({"semantic_logits": logits}, io, 1)
    assert len(alone) == 0
    np.testing.assert_array_equal(alone.semantic, logits[1])  # type: ignore[arg-type]
    outputs: dict[str, Any] = {
        "num_detections": np.array([[1], [2]]), "detection_boxes": np.ones((2, 3, 4)), "detection_scores": np.ones((2, 3)),
        "detection_keypoint_heatmaps": np.arange(2 * 3 * 2, dtype=np.float32).reshape(2, 3, 2, 1, 1),
        "semantic_logits": logits,
    }  # fmt: skip
    found = from_outputs(outputs, io, 1)
    assert found.classes.tolist() == [0, 0]
    assert found.heatmaps is not None
    assert found.heatmaps.reshape(2, 2).tolist() == [[6, 7], [8, 9]]
    np.testing.assert_array_equal(found.semantic, logits[1])  # type: ignore[arg-type]


def raw(n: int, **maps: np.ndarray) -> dict[str, np.ndarray]:
    floats = {"b": np.ones((n, 4), np.float32), "s": np.ones(n, np.float32), **maps}
    return {**floats, "c": np.zeros(n, np.int64), "size": np.array([64, 96])}


def test_outputs_of_an_export_are_told_by_shape() -> None:
    masks, heat = np.full((3, 1, 8, 8), 0.5, np.float32), np.full((3, 5, 8, 8), 2, np.float32)
    logits = np.full((1, 4, 16, 24), 3, np.float32)
    found = from_raw_export(raw(3, m=masks, l=logits))
    assert found.masks is not None
    assert found.semantic is not None
    assert found.heatmaps is None
    assert found.semantic.shape == (4, 16, 24)
    found = from_raw_export(raw(3, h=heat))
    assert found.heatmaps is not None
    assert found.masks is None
    one = from_raw_export(raw(1, m=masks[:1], l=logits[..., :16]))
    assert one.semantic is not None
    assert one.masks is not None
    for alone in (logits, logits[0]):
        only = from_raw_export({"x": alone})
        assert only.semantic is not None
        assert only.semantic.shape == (4, 16, 24)
        assert len(only) == 0
    with pytest.raises(InputError, match="two of them look like the semantic"):
        from_raw_export(raw(3, a=logits, b2=logits))


def test_semantic_logits_count_in_a_match() -> None:
    """At two strides too: an export may hold the enlargement that the compiled graph leaves to the runtime."""
    d = detections()
    assert match(d, d).exact
    large = Detections.of(d.boxes, d.scores, d.classes, d.masks, semantic=semantic.enlarged(STORED["logits"], 4))
    report = match(large, d)
    assert report.exact
    assert report.semantic == 0
    other = Detections.of(d.boxes, d.scores, d.classes, d.masks, semantic=STORED["logits"] + 0.1)
    report = match(d, other)
    assert (report.matched, report.same_map, report.exact) == (6, False, False)
    assert report.semantic == pytest.approx(0.1, rel=1e-3)
    assert "semantic logits 0.1" in str(report)
    assert not match(d, Detections.of(d.boxes, d.scores, d.classes, d.masks)).exact


def test_int8_damages_semantic_maps_too() -> None:
    """The share of cells that change class; half the damage where there are detections beside."""
    logits = np.zeros((2, 2, 2), np.float32)
    other = logits.copy()
    other[1, 0, 0] = 1
    alone, changed = (Detections.of([], [], [], semantic=m) for m in (logits, other))
    assert damage(alone, alone) == 0
    assert damage(alone, changed) == pytest.approx(1 / 4)
    beside, lost = (Detections.of([[0, 0, 9, 9]], [0.9], [0], semantic=m) for m in (logits, other))
    assert damage(beside, lost) == pytest.approx(1 / 8)


def test_mean_iou_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [2, 2, 255, 255]])
    found = np.array([[0, 1, 1, 1], [2, 2, 0, 3]], np.int32)
    counted = MeanIoU(5)
    counted.add(found, truth)
    report = counted.report(["a", "b", "c"])
    assert report["per_class"] == pytest.approx({"a": 1 / 2, "b": 2 / 3, "c": 1.0})
    assert report["mIoU"] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert report["pACC"] == pytest.approx(5 / 6)
    assert report["mACC"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert MeanIoU(2).report()["mIoU"] is None
    with pytest.raises(InputError, match="the semantic truth is 2x4, the picture 4x2"):
        counted.add(found.T, truth)


def test_pictures_of_classes_have_one_channel(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 7], [255, 1]], np.uint8)).save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png").tolist() == [[0, 7], [255, 1]]
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match="has one channel, this one has 3"):
        read_labels(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"none\.png: not a readable picture"):
        read_labels(tmp_path / "none.png")
