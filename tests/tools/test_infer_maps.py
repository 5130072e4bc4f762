"""infer, verify and eval of builds with keypoints, segments and semantic maps.

The builds with detections are stand-ins whose graph answers with the stored detections of data/make_runtime_maps.py,
whatever it is fed; the one that only segments is a small network, compiled.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from helpers.cli import assert_one_line_error, cli
from helpers.semantic_networks import LOGITS, network
from helpers.stand_ins import STORED, detected, stand_in

from onnxgraft.driver.compile import compile
from onnxgraft.errors import InputError
from onnxgraft.evaluation.table import table
from onnxgraft.options import Options
from onnxgraft.runtime.masks import decode
from onnxgraft.tools import evaluate, infer
from onnxgraft.tools.verify import verify

PICTURE = (83, 125)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.full((*PICTURE, 3), 90, np.uint8))
    return path


@pytest.fixture
def panoptic(tmp_path: Path) -> Path:
    order = np.argsort(-STORED["scores"], kind="stable")  # as suppression gives them
    outputs = detected(*(STORED[k][order] for k in ("boxes", "scores", "classes")))
    outputs |= {"detection_masks": STORED["masks"][order], "semantic_logits": STORED["logits"]}
    return stand_in(tmp_path / "panoptic", outputs)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("semantic")
    network(LOGITS).save(folder / "net.onnx")
    (folder / "net.json").write_text(json.dumps({"semantic_class_names": ["u", "v", "w", "x", "y"], "config": {}}))
    return compile(folder / "net.onnx", folder / "out", Options(target="onnxruntime", size=(64, 96))).folder


def detect(
    build: Path, picture: Path, json_file: Path, drawn: Path | None = None, min_score: float | None = None
) -> list[str]:
    """The lines that `infer` tells of a picture."""
    lines: list[str] = []
    outputs = infer.Outputs(json_file=json_file, drawn=drawn, min_score=min_score)
    infer.infer(build, [picture], outputs, tell=lines.append)
    return lines


def test_panoptic_json_and_picture(panoptic: Path, picture: Path, tmp_path: Path) -> None:
    lines = detect(panoptic, picture, tmp_path / "o.json", tmp_path / "drawn")
    assert lines == [f"{picture}: 6 detections, 9 panoptic segments"]
    (entry,) = json.loads((tmp_path / "o.json").read_text())
    assert list(entry) == ["file", "boxes", "scores", "classes", "names", "masks", "semantic", "panoptic"]
    assert entry["panoptic"]["file_name"] == "o_panoptic/photo.png"
    ids = cv2.imread(str(tmp_path / entry["panoptic"]["file_name"]))[..., ::-1].astype(int) @ [1, 256, 65536]
    np.testing.assert_array_equal(ids, STORED["ids_fine"])  # the manifest's own thresholds
    wanted = json.loads(str(STORED["info_fine"]))
    assert [s["category_id"] for s in entry["panoptic"]["segments_info"]] == [s["category_id"] for s in wanted]
    assert (cv2.imread(str(tmp_path / "drawn" / "photo.png")) != 90).any()


def test_keypoints_in_json(tmp_path: Path, picture: Path) -> None:
    boxes = STORED["heatmap_boxes"]
    outputs = detected(boxes, np.linspace(0.9, 0.5, len(boxes)), np.zeros(len(boxes)))
    build = stand_in(tmp_path / "keypoints", outputs | {"detection_keypoint_heatmaps": STORED["heatmaps"]})
    detect(build, picture, tmp_path / "o.json", tmp_path / "drawn", min_score=0.85)
    (entry,) = json.loads((tmp_path / "o.json").read_text())
    assert len(entry["keypoints"]) == len(entry["boxes"]) == 1
    scale = np.array([PICTURE[1] / 90, PICTURE[0] / 60])
    found = np.reshape(entry["keypoints"][0], (-1, 3))
    np.testing.assert_allclose(found[:, :2], STORED["keypoints"][0, :, :2] * scale, atol=1e-3)


def test_a_network_that_only_segments(segmenter: Path, picture: Path, tmp_path: Path) -> None:
    line, note = detect(segmenter, picture, tmp_path / "o.json", tmp_path / "drawn")
    assert note.startswith(f"note: {picture}: shrunk to 64x96 to fit the canvas of 64x96")
    (entry,) = json.loads((tmp_path / "o.json").read_text())
    assert line == f"{picture}: {len(entry['semantic'])} semantic classes"
    assert entry["boxes"] == []
    assert "panoptic" not in entry
    results, what = verify(segmenter, [picture])
    assert [r.passed for r in results] == [True]
    assert str(results[0].report).startswith("semantic logits within ")
    assert "the exported graph" in what


def test_a_picture_that_fits_is_not_said_to_be_shrunk(segmenter: Path, picture: Path) -> None:
    lines: list[str] = []
    infer.infer(segmenter, [picture], edges=(60, 90), tell=lines.append)
    assert len(lines) == 1


def test_verify_sees_a_changed_map(segmenter: Path, picture: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(segmenter, tmp_path / "changed")
    manifest = json.loads((changed / "manifest.json").read_text())
    model = onnx.load(changed / manifest["runnable"])
    bias = onnx.numpy_helper.from_array(np.full((1, 5, 1, 1), 2, np.float32), "wrong")
    model.graph.initializer.append(bias)
    for node in model.graph.node:
        node.output[:] = ["right" if name == "semantic_logits" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Add", ["right", "wrong"], ["semantic_logits"]))
    onnx.save(model, changed / manifest["runnable"])
    results, _ = verify(changed, [picture])
    assert [r.passed for r in results] == [False]
    assert results[0].report.semantic == pytest.approx(2, abs=0.01)


def test_mean_iou_of_its_own_answers_is_one(segmenter: Path, picture: Path, tmp_path: Path) -> None:
    detect(segmenter, picture, tmp_path / "o.json")
    (entry,) = json.loads((tmp_path / "o.json").read_text())
    labels = np.zeros(PICTURE, np.uint8)
    for part in entry["semantic"]:
        labels[decode(part["segmentation"])] = part["category_id"]
    truth = tmp_path / "truth"
    truth.mkdir()
    cv2.imwrite(str(truth / "photo.png"), labels)
    report = evaluate.evaluate(str(segmenter), picture.parent, semantic=truth)
    assert report["rows"]["out"]["semantic"]["mIoU"] == 1
    assert report["images"] == 1
    cv2.imwrite(str(truth / "photo.png"), 4 - labels)
    worse = evaluate.evaluate(str(segmenter), picture.parent, semantic=truth)
    assert worse["rows"]["out"]["semantic"]["mIoU"] < 0.9
    assert [cell for cell in table(worse)[0] if cell] == ["mIoU", "pixel accuracy"]


def annotations(picture: Path) -> Path:
    instance = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81}
    categories = [{"id": i, "name": n} for i, n in enumerate("abc", start=1)]
    content = {"images": [{"id": 1, "file_name": picture.name}], "annotations": [instance], "categories": categories}
    path = picture.parent / "truth.json"
    path.write_text(json.dumps(content))
    return path


def test_eval_says_what_it_does_not_know(panoptic: Path, segmenter: Path, picture: Path) -> None:
    report = evaluate.evaluate(str(panoptic), picture.parent, annotations(picture))
    assert report["what"].endswith("panoptic quality needs --panoptic FILE")
    with pytest.raises(InputError, match="this network only segments: give --semantic DIR"):
        evaluate.evaluate(str(segmenter), picture.parent, annotations(picture))


def test_eval_refuses_semantic_truth_that_does_not_fit(segmenter: Path, picture: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    assert_one_line_error(cli("eval", segmenter, "--images", picture.parent, "--semantic", truth), "truth", "no folder")
    truth.mkdir()
    with pytest.raises(InputError, match=r"none of its pictures has a NAME\.png"):
        evaluate.evaluate(str(segmenter), picture.parent, semantic=truth)
    cv2.imwrite(str(truth / "photo.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="the semantic truth is 4x4, the picture 83x125"):
        evaluate.evaluate(str(segmenter), picture.parent, semantic=truth)
    plain = stand_in(tmp_path / "plain", detected(np.ones((1, 4)), np.ones(1), np.zeros(1)))
    with pytest.raises(InputError, match="this network has no semantic head"):
        evaluate.evaluate(str(plain), picture.parent, semantic=truth)
