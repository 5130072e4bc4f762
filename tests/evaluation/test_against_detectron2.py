"""Figures equal those of detectron2's own evaluators on the same files (data/make_evaluators.py stored theirs)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import evaluator_data as data
from PIL import Image

from onnxgraft.errors import InputError
from onnxgraft.evaluation import coco
from onnxgraft.evaluation.miou import MeanIoU
from onnxgraft.evaluation.panoptic_quality import PanopticQuality, PanopticTruth, read_truth
from onnxgraft.golden import catalog, scenes
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.postprocess import ImageDetections

THEIRS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "evaluators.json").read_text())


@pytest.fixture
def truth(tmp_path: Path) -> PanopticTruth:
    return write_panoptic(tmp_path)


def write_panoptic(folder: Path) -> PanopticTruth:
    annotations = []
    (folder / "pan").mkdir()
    for image in range(data.IMAGES):
        ids, info = data.panoptic_truth(image)
        colours = np.stack([ids % 256, ids // 256, ids * 0], -1).astype(np.uint8)
        Image.fromarray(colours).save(folder / "pan" / f"{image}.png")
        annotations.append({"image_id": image, "file_name": f"{image}.png", "segments_info": info})
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(data.IMAGES)]
    content = {"images": images, "annotations": annotations, "categories": data.panoptic_categories()}
    (folder / "pan.json").write_text(json.dumps(content))
    return read_truth(folder / "pan.json")


def test_panoptic_quality(truth: PanopticTruth) -> None:
    quality = PanopticQuality(truth)
    for image in range(data.IMAGES):
        quality.add(image, *data.panoptic_answer(image))
    report, theirs = quality.report(), THEIRS["panoptic"]
    assert 0.1 < report["PQ"] < 0.9
    for ours, name in (("", ""), ("_things", "_th"), ("_stuff", "_st")):
        for figure in ("PQ", "SQ", "RQ"):
            assert 100 * report[f"{figure}{ours}"] == pytest.approx(theirs[f"{figure}{name}"], abs=1e-9)
    assert list(report["per_class"]) == [f"c{i}" for i in sorted([*data.THINGS, *data.STUFF])]


def test_the_truth_itself_has_quality_one(truth: PanopticTruth) -> None:
    quality = PanopticQuality(truth)
    ids, info = data.panoptic_truth(0)
    entries = []
    for segment in info:
        thing = segment["category_id"] in data.THINGS
        label = data.THINGS.index(segment["category_id"]) if thing else data.STUFF.index(segment["category_id"]) + 1
        entries.append({"id": segment["id"], "isthing": thing, "category_id": label})
    quality.add(0, ids.astype(np.int32), entries)
    report = quality.report()
    assert report["PQ"] == report["SQ"] == report["RQ"] == 1
    with pytest.raises(InputError, match=r"image 1 is 96x128 there, the picture 4x4"):
        quality.add(1, np.zeros((4, 4), np.int32), [])
    with pytest.raises(InputError, match="has 3 categories of things, the network finds class 3"):
        quality.add(1, ids.astype(np.int32), [{"id": 1, "isthing": True, "category_id": 3}])
    with pytest.raises(InputError, match="has no segments of image 99"):
        quality.add(99, ids.astype(np.int32), [])


def test_lvis() -> None:
    found = {image: Detections.of(*held) for image, held in data.lvis_answers().items()}
    report, theirs = coco.evaluate(data.lvis_truth(), found)["box"], THEIRS["lvis"]
    assert len(found[1]) > coco.LVIS_DETECTIONS
    for figure in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"):
        known = None if np.isnan(theirs[figure]) or theirs[figure] < 0 else pytest.approx(theirs[figure], abs=1e-6)
        assert (None if report[figure] is None else 100 * report[figure]) == known, figure


def test_semantic_maps() -> None:
    measure = MeanIoU(5)
    for image in range(data.IMAGES):
        found, wanted = data.semantic(image)
        measure.add(found.astype(np.int32), wanted)
    report = measure.report()
    for figure in ("mIoU", "fwIoU", "mACC", "pACC"):
        assert 100 * report[figure] == pytest.approx(THEIRS["semantic"][figure], abs=1e-9)


def test_keypoints() -> None:
    found = {}
    for image, (boxes, scores, points) in data.person_answers().items():
        detections = Detections.of(boxes, scores, np.zeros(len(boxes), np.int64))
        found[image] = ImageDetections(detections, (480, 640), boxes, points)
    report = coco.evaluate(data.person_truth(), found)
    assert 0.1 < report["keypoint"]["AP"] < 0.9
    for ours, theirs in (("box", "bbox"), ("keypoint", "keypoints")):
        for figure in ("AP", "AP50", "AP75", "APm", "APl"):
            assert 100 * report[ours][figure] == pytest.approx(THEIRS["keypoints"][theirs][figure], abs=1e-6), (ours, figure)


def test_stored_answers_of_pytorch() -> None:
    count = 4
    folder = catalog.ROOT / "mask_rcnn" / "evaluation"
    found = {i: Detections.load(folder / f"scene_{i}.npz") for i in range(count)}
    report = coco.evaluate(scenes.coco(range(count)), found)
    for ours, theirs in (("box", "bbox"), ("mask", "segm")):
        for figure in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
            assert 100 * report[ours][figure] == pytest.approx(THEIRS["coco"][theirs][figure], abs=1e-6), (ours, figure)
