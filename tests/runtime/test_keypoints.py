"""Heatmaps become the keypoints that detectron2 reads from them; torch's answers are stored (data/make_runtime_maps.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.evaluation import coco
from onnxgraft.runtime import interpolation, results
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.draw import draw
from onnxgraft.runtime.images import Placement
from onnxgraft.runtime.keypoints import decode
from onnxgraft.runtime.postprocess import ImageDetections, to_original

STORED = np.load(Path(__file__).parents[1] / "data" / "runtime_maps.npz")
SIZES = {"up": (11, 23), "down": (3, 5), "mixed": (4, 40)}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_interpolation_is_torchs(name: str, kind: str) -> None:
    taps = interpolation.linear if kind == "bilinear" else interpolation.cubic
    rows, columns = (taps(n, size) for n, size in zip(STORED["map"].shape[1:], SIZES[name], strict=True))
    answer = STORED[f"{kind}_{name}"]
    found = interpolation.apply(STORED["map"], rows, columns)
    np.testing.assert_allclose(found, answer, rtol=0, atol=2e-6 if kind == "bilinear" else 2e-5)
    np.testing.assert_allclose(interpolation.apply_fast(STORED["map"], rows, columns), answer, rtol=0, atol=2e-5)
    y, x = np.array([0, 1, 2]), np.array([4, 0, 3])
    np.testing.assert_array_equal(interpolation.points(STORED["map"][1], rows, columns, y, x), found[1, y, x])


def test_a_scale_factor_is_kept_as_asked() -> None:
    rows, columns = (interpolation.linear(n, 4 * n, 4) for n in STORED["map"].shape[1:])
    found = interpolation.apply(STORED["map"], rows, columns)
    np.testing.assert_allclose(found, STORED["bilinear_x4"], rtol=0, atol=2e-6)


def test_bilinear_pictures_are_torchs_bit_for_bit() -> None:
    rows, columns = (interpolation.linear(n, size) for n, size in zip(STORED["map"].shape[1:], (91, 133), strict=True))
    found = interpolation.apply(STORED["map"], rows, columns)
    np.testing.assert_array_equal(found.reshape(-1)[::29], STORED["bilinear_large"])


def test_keypoints_are_detectron2s() -> None:
    found = decode(STORED["heatmaps"], STORED["heatmap_boxes"])
    np.testing.assert_allclose(found[..., :2], STORED["keypoints"][..., :2], atol=1e-5)
    np.testing.assert_allclose(found[..., 2], STORED["keypoints"][..., 2], rtol=1e-4)


def test_of_equal_peaks_the_first_wins() -> None:
    """A flat map is highest everywhere: the keypoint is the first pixel's centre."""
    (found,) = decode(np.zeros((1, 1, 8, 8), np.float32), np.array([[10, 20, 18, 28]], np.float32))
    np.testing.assert_allclose(found, [[10.5, 20.5, 1 / 64]], rtol=1e-6)


def test_a_box_that_is_not_finite_has_no_keypoints() -> None:
    boxes = np.array([[0, 0, np.nan, 5], [0, 0, 5, 5]], np.float32)
    found = decode(np.zeros((2, 1, 8, 8), np.float32), boxes)
    assert not found[0].any()
    assert found[1].any()


def detections() -> Detections:
    n = len(STORED["heatmaps"])
    return Detections.of(STORED["heatmap_boxes"], np.linspace(0.9, 0.5, n), np.zeros(n), heatmaps=STORED["heatmaps"])


def test_keypoints_scale_with_the_picture() -> None:
    """x and y on their own; a detection that is dropped takes its keypoints along."""
    d = detections()
    d.boxes[2] = (70, 5, 90, 40)  # wholly in the padding
    placement = Placement((128, 128), (64, 64), (64, 96))
    found = to_original(d, placement)
    assert len(found) == 4
    assert found.keypoints is not None
    kept = np.delete(STORED["keypoints"], 2, axis=0)
    np.testing.assert_allclose(found.keypoints[..., :2], kept[..., :2] * 2, atol=1e-4)
    picked = found.select(np.array([3]))
    assert picked.keypoints is not None
    np.testing.assert_array_equal(picked.keypoints[0], found.keypoints[3])


def test_json_has_flat_keypoints() -> None:
    found = to_original(detections(), Placement((64, 96), (64, 96), (64, 96)))
    entry = results.to_json("a.png", found)
    assert np.shape(entry["keypoints"]) == (5, 6)
    np.testing.assert_allclose(np.reshape(entry["keypoints"][0], (2, 3)), STORED["keypoints"][0], atol=1e-4)


def test_files_keep_heatmaps_and_semantic_logits(tmp_path: Path) -> None:
    d = Detections(*vars(detections()).values())
    both = Detections.of(d.boxes, d.scores, d.classes, None, d.heatmaps, STORED["logits"])
    both.save(tmp_path / "d.npz")
    read = Detections.load(tmp_path / "d.npz")
    assert read.masks is None
    np.testing.assert_array_equal(read.heatmaps, d.heatmaps)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read.semantic, STORED["logits"])  # type: ignore[arg-type]


def test_heatmaps_count_in_a_match() -> None:
    d = detections()
    largest = float(np.abs(STORED["heatmaps"]).max())
    assert match(d, d).exact
    near, far = (Detections.of(d.boxes, d.scores, d.classes, heatmaps=STORED["heatmaps"]) for _ in range(2))
    for other, share in ((near, 5e-4), (far, 5e-3)):
        changed = STORED["heatmaps"].copy()
        changed[1, 1, 3, 3] += share * largest
        object.__setattr__(other, "heatmaps", changed)
    assert match(d, near).exact
    report = match(d, far)
    assert (report.matched, report.exact) == (4, False)
    assert report.heatmap == pytest.approx(5e-3 * largest, rel=1e-3)
    without = Detections.of(d.boxes, d.scores, d.classes)
    assert not match(d, without).exact


def person(x: float = 0.0) -> np.ndarray:
    """COCO's 17 keypoints of a person 100 pixels high, float32 [1, 17, 3]."""
    rows = np.linspace(20, 120, 17, dtype=np.float32)
    return np.stack([np.linspace(30, 70, 17, dtype=np.float32) + x, rows, np.full(17, 0.9, np.float32)], 1)[None]


def truth(keypoints: np.ndarray) -> dict[str, object]:
    flat = np.concatenate([keypoints[0, :, :2] - 0.5, np.full((len(keypoints[0]), 1), 2)], 1).reshape(-1).tolist()
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 10, 60, 120], "area": 5000, "keypoints": flat}
    return {"images": [{"id": 1, "height": 150, "width": 100}], "annotations": [annotation],
            "categories": [{"id": 1, "name": "person"}]}  # fmt: skip


def found_person(keypoints: np.ndarray) -> dict[int, ImageDetections]:
    d = Detections.of([[20, 10, 80, 130]], [0.9], [0])
    return {1: ImageDetections(d, (150, 100), d.boxes, keypoints)}


def test_keypoint_ap_counts_half_a_pixel() -> None:
    """COCO's annotations are pixel indices. Persons 8 pixels aside fail the stricter thresholds only."""
    exact = coco.evaluate(truth(person()), found_person(person()))["keypoint"]
    assert list(exact) == ["AP", "AP50", "AP75", "APm", "APl", "per_class"]
    assert exact["AP"] == exact["APm"] == pytest.approx(1)
    assert exact["APl"] is None
    aside = coco.evaluate(truth(person()), found_person(person(8)))["keypoint"]
    assert aside["AP50"] == pytest.approx(1)
    assert 0 < aside["AP"] < 0.9


def test_keypoint_ap_refuses_other_skeletons() -> None:
    with pytest.raises(InputError, match=r"keypoint AP is known for COCO's 17 keypoints; here are \[5, 17\]"):
        coco.evaluate(truth(person()), found_person(person()[:, :5]))


def test_a_person_is_drawn_with_bones() -> None:
    image = np.zeros((150, 100, 3), np.uint8)

    def touched(keypoints: np.ndarray) -> int:
        return int(draw(image, found_person(keypoints)[1]).any(axis=2).sum())

    hidden = person()
    hidden[..., 2] = 0
    dots = touched(person()[:, :16])
    assert dots > touched(hidden)
    apart = person()
    apart[0, 10, :2] = (95, 5)  # the right wrist, far from its elbow
    without = touched(np.concatenate([apart, apart[:, 10:11]], axis=1))  # 18 keypoints are no person
    assert touched(apart) > without + 40
