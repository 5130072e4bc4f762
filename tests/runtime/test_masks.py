"""Mask pasting and the way back to the original image, against detectron2's own answers.

tests/data/runtime_masks.npz holds what detectron2's paste_masks_in_image and
detector_postprocess (PyTorch on a CPU) answer for seeded masks and boxes: sub-pixel boxes, boxes
without area, boxes partly outside the image. The masks to paste have five levels, so that whole
areas lie on the threshold exactly and rounding otherwise than torch changes pixels. Those of "near" lie within some 1e-6
of it, where torch's fused sums count.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import mask as coco_mask

from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.images import Placement
from onnxgraft.runtime.mask_grid import axes, sample, widened
from onnxgraft.runtime.masks import decode, encode, paste, patches
from onnxgraft.runtime.postprocess import ImageDetections, to_original

FIXTURE = Path(__file__).parents[1] / "data" / "runtime_masks.npz"


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as arrays:
        return dict(arrays)


def probabilities(stored: np.ndarray, levels: int) -> np.ndarray:
    return stored.astype(np.float32) / np.float32(levels)


def unpacked(bits: np.ndarray, n: int, size: tuple[int, int]) -> np.ndarray:
    return np.unpackbits(bits)[: n * size[0] * size[1]].reshape(n, *size).astype(bool)


@pytest.mark.parametrize("case", ["", "plateau_"])
def test_pasting_is_detectron2s_to_the_pixel(stored: dict[str, np.ndarray], case: str) -> None:
    size = (int(stored[f"{case}size"][0]), int(stored[f"{case}size"][1]))
    masks = probabilities(stored[f"{case}masks"], 4)
    expected = unpacked(stored[f"{case}packed"], len(masks), size)
    assert 1000 < expected.sum() < expected.size
    np.testing.assert_array_equal(paste(masks, stored[f"{case}boxes"], size), expected)


def test_pixels_near_the_threshold_are_detectron2s(stored: dict[str, np.ndarray]) -> None:
    masks, size = stored["near_masks"], (int(stored["near_size"][0]), int(stored["near_size"][1]))
    expected = unpacked(stored["near_packed"], len(masks), size)
    np.testing.assert_array_equal(paste(masks, stored["near_boxes"], size), expected)


def sampled(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float) -> np.ndarray:
    """Every pixel by itself, as torch's kernel samples it."""
    rows, columns = axes(boxes, size, masks.shape[-1])
    pasted, wide = np.zeros((len(masks), *size), bool), widened(masks)
    y, x = np.indices(size).reshape(2, -1)
    for i, picture in enumerate(pasted):
        inside = (y >= rows.first[i]) & (y < rows.first[i] + rows.count[i])
        inside &= (x >= columns.first[i]) & (x < columns.first[i] + columns.count[i])
        down, across = y[inside] - rows.first[i] + rows.start[i], x[inside] - columns.first[i] + columns.start[i]
        value = sample(wide, np.full(len(down), i), rows.cell[down], rows.fraction[down],
                       columns.cell[across], columns.fraction[across])  # fmt: skip
        picture[y[inside], x[inside]] = value >= np.float32(threshold)
    return pasted


@pytest.mark.parametrize("kind", ["noise", "plateaus", "near the threshold", "no numbers", "boxes turned round"])
@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.0])
def test_edges_are_where_every_pixel_by_itself_says(kind: str, threshold: float) -> None:
    rng = np.random.default_rng(3)
    for size, cells in (((60, 47), 28), ((31, 90), 7), ((5, 4), 14), ((64, 64), 1)):
        masks = rng.random((8, cells, cells)).astype(np.float32)
        corners = np.sort(rng.uniform(-12, max(size) + 12, (8, 2, 2)), axis=1).reshape(8, 4).astype(np.float32)
        corners[0] = [0, 0, size[1], size[0]]
        if kind == "plateaus":
            masks, corners = np.rint(masks * 4) / np.float32(4), np.rint(corners)
        if kind == "near the threshold":
            masks = (threshold + rng.normal(size=masks.shape) * 1e-5).astype(np.float32)
        if kind == "no numbers":
            masks[rng.random(masks.shape) < 0.05] = np.nan
            masks[rng.random(masks.shape) < 0.05] = np.inf
        if kind == "boxes turned round":
            corners[1:, 2:] = corners[1:, :2] + rng.uniform(-1.5, 1, (7, 2)).astype(np.float32)
        expected = sampled(masks, corners, size, threshold)
        np.testing.assert_array_equal(paste(masks, corners, size, threshold), expected)
        lengths = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in expected]
        assert encode(masks, corners, size, threshold) == [{"size": [*size], "counts": _text(e["counts"])} for e in lengths]


def _text(counts: str | bytes) -> str:
    return counts if isinstance(counts, str) else counts.decode()


def test_run_lengths_need_no_picture() -> None:
    """Pasted into a picture of 65,000 x 65,000, each of 50 masks would take 4 GB."""
    masks = np.ones((50, 28, 28), np.float32)
    boxes = np.tile(np.array([[10, 20, 8_010, 30]], np.float32), (50, 1))
    found = encode(masks, boxes, (65_000, 65_000))
    assert coco_mask.toBbox(found).tolist() == [[10, 20, 8_000, 10]] * 50
    assert coco_mask.area(found).tolist() == [80_000] * 50


def test_postprocessing_is_detectron2s(stored: dict[str, np.ndarray]) -> None:
    n = len(stored["post_boxes"])
    masks = probabilities(stored["post_masks"], 255)
    raw = Detections.of(stored["post_boxes"], np.arange(n), np.zeros(n), masks)
    resized = (int(stored["post_resized"][0]), int(stored["post_resized"][1]))
    original = (int(stored["post_original"][0]), int(stored["post_original"][1]))
    found = to_original(raw, Placement(original, resized, (128, 128)))
    assert found.detections.scores.astype(int).tolist() == stored["post_kept"].tolist()
    assert len(found) < n  # the box without area is gone
    np.testing.assert_array_equal(found.detections.boxes, stored["post_result"])
    expected = unpacked(stored["post_packed"], len(found), original)
    np.testing.assert_array_equal(found.pasted(), expected)


def test_run_lengths_give_the_masks_back(stored: dict[str, np.ndarray]) -> None:
    size = (int(stored["size"][0]), int(stored["size"][1]))
    masks = probabilities(stored["masks"], 4)
    for rle, mask in zip(encode(masks, stored["boxes"], size), paste(masks, stored["boxes"], size), strict=True):
        assert isinstance(rle["counts"], str)
        np.testing.assert_array_equal(decode(rle), mask)


def test_a_full_mask_covers_its_box_and_no_more() -> None:
    pasted = paste(np.ones((1, 28, 28), np.float32), np.array([[3, 4, 9, 8]], np.float32), (12, 15))
    expected = np.zeros((12, 15), bool)
    expected[4:8, 3:9] = True
    np.testing.assert_array_equal(pasted[0], expected)


def test_boxes_that_cannot_be_pasted_leave_nothing() -> None:
    boxes = np.array([[np.nan, 0, 5, 5], [-9, -9, -4, -4], [50, 50, 60, 60], [3, 3, 3, 3]])
    masks = np.ones((4, 28, 28), np.float32)
    assert not paste(masks, boxes.astype(np.float32), (20, 20)).any()
    assert len(list(patches(masks, boxes.astype(np.float32), (20, 20)))) == 4


def test_a_box_that_reaches_into_the_padding_keeps_its_masks_proportions() -> None:
    """The left half of the mask stays on the left half of the network's box."""
    half = np.zeros((1, 28, 28), np.float32)
    half[:, :, :14] = 1
    raw = Detections.of([[20, 10, 60, 30]], [0.9], [0], half)
    found = to_original(raw, Placement((40, 40), (40, 40), (64, 64)))
    assert found.detections.boxes.tolist() == [[20, 10, 40, 30]]
    pasted = found.pasted()
    assert pasted is not None
    assert pasted[0, 15, 20:40].all()
    inside = to_original(
        Detections.of([[20, 10, 40, 30]], [0.9], [0], half), Placement((40, 40), (40, 40), (64, 64))
    ).pasted()
    assert inside is not None
    assert inside[0, 15].nonzero()[0].tolist() == list(range(20, 30))


def test_what_lies_wholly_in_the_padding_is_dropped() -> None:
    boxes = np.array([[41, 0, 60, 30], [1, 1, 5, 5], [np.nan] * 4])
    raw = Detections.of(boxes, [0.9, 0.8, 0.7], [0, 1, 2])
    found = to_original(raw, Placement((80, 20), (40, 40), (64, 64)))
    assert found.detections.classes.tolist() == [1]
    assert found.detections.boxes.tolist() == [[0.5, 2, 2.5, 10]]  # x halved, y doubled
    assert (found.pasted(), found.encoded(), list(found.patches())) == (None, None, [])


def test_no_detections() -> None:
    none = ImageDetections.of(Detections.of([], [], [], np.zeros((0, 28, 28))), (10, 20))
    pasted = none.pasted()
    assert pasted is not None
    assert pasted.shape == (0, 10, 20)
    assert none.encoded() == []
