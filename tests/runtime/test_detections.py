"""What comes out: drawn pictures, JSON, COCO average precision."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.evaluation.coco import evaluate
from onnxgraft.runtime import results
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.draw import colour, draw
from onnxgraft.runtime.labels import arrange
from onnxgraft.runtime.masks import decode, encode
from onnxgraft.runtime.postprocess import ImageDetections


def two(masks: bool = True) -> ImageDetections:
    probabilities = np.ones((2, 28, 28)) if masks else None
    boxes = [[10, 20, 50, 60], [80, 70, 140, 100]]
    return ImageDetections.of(Detections.of(boxes, [0.9, 0.3], [0, 4], probabilities), (120, 160))


def test_drawing_tints_masks_in_the_classes_colour() -> None:
    image = np.full((120, 160, 3), 100, np.uint8)
    drawn = draw(image, two(), alpha=0.5)
    assert (image == 100).all()
    expected = np.rint(np.full(3, 50) + np.array(colour(0)) / 2)
    np.testing.assert_array_equal(drawn[50, 30], expected)
    np.testing.assert_array_equal(drawn[110, 20], (100, 100, 100))
    np.testing.assert_array_equal(drawn, draw(image, two(), alpha=0.5))
    hidden = draw(image, two(), alpha=0.5, min_score=0.5)
    np.testing.assert_array_equal(hidden[90, 110], (100, 100, 100))


def test_without_masks_the_inside_stays() -> None:
    image = np.full((120, 160, 3), 100, np.uint8)
    drawn = draw(image, two(masks=False), ["disc"])
    np.testing.assert_array_equal(drawn[50, 30], (100, 100, 100))
    np.testing.assert_array_equal(drawn[40, 10], colour(0))


@pytest.mark.parametrize("box", [[-5, -5, 3, 3], [150, 0, 160, 5], [0, 112, 8, 120]])
def test_labels_stay_inside_the_image(box: list[float]) -> None:
    """Every pixel of the label's plate is there, wherever the box is: count the plate's colour."""
    image = np.zeros((120, 160, 3), np.uint8)

    def plate(corners: list[float]) -> int:
        found = ImageDetections.of(Detections.of([corners], [0.5], [1]), (120, 160))
        return int((draw(image, found, ["a", "square"]) == colour(1)).all(axis=2).sum())

    alone = plate([60, 50, 61, 51])
    assert plate(box) >= alone - 8


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (300, 5)])
def test_tiny_images_and_long_names_can_be_drawn(size: tuple[int, int]) -> None:
    found = ImageDetections.of(Detections.of([[0, 0, *size[::-1]]], [1], [0]), size)
    assert draw(np.zeros((*size, 3), np.uint8), found, ["x" * 80 + "é"]).any()


def test_neighbouring_classes_differ() -> None:
    colours = np.array([colour(i) for i in range(80)])
    assert len(np.unique(colours, axis=0)) == 80
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 100


def test_json_has_the_agreed_keys(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.json"
    results.write(path, [results.to_json("a.jpg", two()), results.to_json("b.jpg", two(False))])
    first, second = json.loads(path.read_text())
    assert list(first) == ["file", "boxes", "scores", "classes", "masks"]
    assert list(second) == ["file", "boxes", "scores", "classes"]
    assert first["boxes"][0] == [10, 20, 50, 60]
    assert (first["scores"], first["classes"]) == ([0.9, 0.3], [0, 4])
    assert decode(first["masks"][0])[20:60, 10:50].all()
    assert decode(first["masks"][0]).sum() == 40 * 40
    results.write(path, [])
    assert json.loads(path.read_text()) == []


def test_a_failed_write_leaves_the_older_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "out.json"
    results.write(path, [results.to_json("a.jpg", two(False))])
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"out\.json cannot be written: no space left"):
        results.write(path, [])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        results.write(tmp_path / "file" / "out.json", [])


def truth(segmentation: bool = True) -> dict[str, Any]:
    """Two images of 200x200; category ids with a gap, annotation ids from 0."""
    boxes = [(0, 1, [10, 10, 20, 20]), (0, 7, [50, 50, 100, 100]), (1, 7, [20, 30, 120, 100])]
    annotations = []
    for number, (image, category, (x, y, w, h)) in enumerate(boxes):
        entry: dict[str, Any] = {"id": number, "image_id": image, "category_id": category}
        entry |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
        if segmentation:
            entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotations.append(entry)
    categories = [{"id": 7, "name": "big"}, {"id": 1, "name": "small"}, {"id": 9, "name": "none"}]
    images = [{"id": i, "height": 200, "width": 200} for i in (0, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def perfect() -> dict[int, Detections]:
    one, ones = [0.9, 0.8], np.ones((2, 28, 28))
    return {
        0: Detections.of([[10, 10, 30, 30], [50, 50, 150, 150]], one, [0, 1], ones),
        1: Detections.of([[20, 30, 140, 130]], [0.7], [1], np.ones((1, 28, 28))),
    }


def test_perfect_detections_have_ap_1(tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(truth()))
    report = evaluate(path, perfect())
    for kind in ("box", "mask"):
        assert report[kind]["AP"] == pytest.approx(1)
        assert report[kind]["per_class"] == {
            "small": pytest.approx(1),
            "big": pytest.approx(1),
            "none": None,
        }
        assert report[kind]["APs"] == pytest.approx(1)
        assert report[kind]["APm"] is None
    assert (report["images"], report["detections"]) == (2, 3)
    assert evaluate(truth(), perfect()) == report
    assert capfd.readouterr() == ("", "")


def test_known_average_precision() -> None:
    """Of two big ones one is found, at an IoU of 0.72; the small one is missed."""
    found = {0: Detections.of([[50, 50, 150, 122]], [0.9], [1])}
    report = evaluate(truth(), found)
    recall_half = 51 / 101  # recall 0.5 covers 51 of COCO's 101 recall points
    assert report["box"]["AP50"] == pytest.approx(recall_half / 2)
    assert report["box"]["AP75"] == 0
    assert report["box"]["per_class"]["big"] == pytest.approx(recall_half * 5 / 10)
    assert "mask" not in report
    assert evaluate(truth(), {})["box"]["AP"] == 0
    assert evaluate(truth(), {0: Detections.of([], [], [])})["box"]["AP"] == 0


def test_masks_count_where_boxes_agree() -> None:
    found = perfect()
    half = np.zeros((1, 28, 28), np.float32)
    half[:, :, :14] = 1
    found[1] = Detections.of([[20, 30, 140, 130]], [0.95], [1], half)
    report = evaluate(truth(), found)
    assert report["box"]["AP"] == pytest.approx(1)
    assert report["mask"]["AP50"] < 0.9


def test_run_lengths_can_be_the_annotations() -> None:
    annotations = truth()
    for entry in annotations["annotations"]:
        x, y, w, h = entry["bbox"]
        box = np.array([[x, y, x + w, y + h]], np.float32)
        entry["segmentation"] = encode(np.ones((1, 28, 28), np.float32), box, (200, 200))[0]
    assert evaluate(annotations, perfect())["mask"]["AP"] == pytest.approx(1)


def test_errors_of_evaluation_are_clear(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match="not JSON"):
        evaluate(tmp_path / "bad.json", {})
    with pytest.raises(InputError, match="'images' is missing"):
        evaluate(tmp_path / "list.json", {})
    with pytest.raises(InputError, match="no such file"):
        evaluate(tmp_path / "absent.json", {})
    with pytest.raises(InputError, match="image 5 has detections"):
        evaluate(truth(), {5: perfect()[0]})
    with pytest.raises(InputError, match="class 3, but the annotations have 3 categories"):
        evaluate(truth(), {0: Detections.of([[0, 0, 1, 1]], [1], [3])})
    broken = truth()
    del broken["annotations"][1]["bbox"]
    with pytest.raises(InputError, match="bbox"):
        evaluate(broken, {})


@pytest.mark.parametrize("count", [1, 30, 100])
def test_labels_do_not_cover_each_other(count: int) -> None:
    bits = np.random.Philox(count).random_raw(4 * count).reshape(count, 4)
    corners = (bits[:, :2] % 1000).astype(np.int64)
    boxes = np.concatenate([corners, corners + (bits[:, 2:] % 300).astype(np.int64)], 1)
    plates = [(90 + 10 * (i % 4), 22) for i in range(count)]
    places = arrange(boxes, plates, (1000, 1300))
    found = [(*place, place[0] + w, place[1] + h) for place, (w, h) in zip(places, plates, strict=True) if place is not None]
    assert len(found) == count
    for i, (left, top, right, bottom) in enumerate(found):
        assert 0 <= left < right <= 1300
        assert 0 <= top < bottom <= 1000
        for other in found[:i]:
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]


def test_a_label_without_room_is_left_out() -> None:
    places = arrange(np.array([[0, 0, 50, 20]] * 3), [(50, 20)] * 3, (40, 50))
    assert places[2] is None
    assert sorted(place for place in places[:2] if place is not None) == [(0, 0), (0, 20)]
