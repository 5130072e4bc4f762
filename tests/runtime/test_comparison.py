"""Detections and the strict match."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.manifest import GraphIO, ImageIO
from onnxgraft.runtime.comparison import _assign, box_iou, match
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.read_outputs import from_outputs, from_raw_export


def detections(n: int, seed: int = 0, masks: bool = True) -> Detections:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 1000, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 200, (n, 2))], axis=1)
    probabilities = rng.uniform(0, 1, (n, 28, 28)) if masks else None
    return Detections.of(boxes, rng.uniform(0, 1, n), rng.integers(0, 5, n), probabilities)


def changed(d: Detections, **parts: np.ndarray | None) -> Detections:
    return Detections.of(**{**vars(d), **parts})


def test_the_same_in_another_order_is_exact() -> None:
    d = detections(300)
    report = match(d, d.select(np.random.default_rng(1).permutation(300)))
    assert (report.exact, report.share, report.box_px, report.mask) == (True, 1.0, 0.0, 0.0)


def test_equal_scores_may_swap() -> None:
    d = changed(detections(4), scores=np.full(4, 0.5))
    assert match(d, d.select(np.array([3, 2, 1, 0]))).exact


@pytest.mark.parametrize(
    ("part", "change"),
    [("boxes", 5.0), ("scores", 2e-3), ("classes", 1), ("masks", 0.02)],
)
def test_each_limit_is_checked(part: str, change: float) -> None:
    d = detections(10)
    moved = getattr(d, part).copy()
    moved[3] = moved[3] + change
    report = match(d, changed(d, **{part: moved}))
    assert (report.matched, report.exact) == (9, False)


def test_a_miss_says_by_how_much() -> None:
    d = detections(10)
    boxes, scores = d.boxes.copy(), d.scores.copy()
    boxes[3, 2] += 3
    scores[5] += 0.25
    report = match(d, changed(d, boxes=boxes, scores=scores))
    assert report.matched == 8
    assert len(report.pairs) == 10
    assert report.box_px == pytest.approx(3, abs=1e-3)
    assert report.score == pytest.approx(0.25, abs=1e-6)


def test_counts_and_masks_must_agree_to_be_exact() -> None:
    d = detections(6)
    assert not match(d.select(slice(5)), d).exact  # all found, one too many
    assert match(d.select(slice(5)), d).share == 1.0
    assert not match(d, changed(d, masks=None)).exact
    doubled = Detections.of(*(np.concatenate([v, v]) for v in vars(d).values() if v is not None))
    assert match(doubled, d).matched == 6  # one to one


def test_empty_images() -> None:
    none = detections(0)
    assert match(none, none).exact
    assert match(none, none).share == 1.0
    assert match(none, detections(2)).share == 0.0
    assert match(detections(2), none).share == 0.0


def test_nan_never_matches_and_flat_boxes_can() -> None:
    broken = changed(detections(2), boxes=np.full((2, 4), np.nan))
    assert match(broken, broken).matched == 0
    flat = np.array([[5, 5, 5, 9]], np.float32)
    assert box_iou(flat, flat + np.float32(1e-3)) == 1
    assert box_iou(flat, flat + np.float32(0.5)) == 0


def test_slivers_match_by_their_corners() -> None:
    sliver = np.array([[0.0018, 0.1, 0.0129, 31.4]])  # 0.011 px wide: seen at the left edge of an image
    for shift, same in ((1e-4, True), (2e-3, False)):
        overlap = box_iou(sliver, sliver + np.array([shift, 0, 0, 0]))
        assert (overlap.item() > 0.99) == same
    wide = np.array([[0.0, 0.0, 0.2, 30.0]])
    assert box_iou(wide, wide + np.array([9e-4, 0, 0, 0])).item() < 1
    assert box_iou(sliver, sliver + np.array([0.02, 0, 0.02, 0])).item() == 0


def test_iou_of_known_boxes() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(box_iou(a, b), [[1 / 3, 1, 0]])


def test_greedy_choices_are_undone_where_more_can_be_paired() -> None:
    allowed = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1]], bool)
    overlap = np.array([[0.999, 0.995, 0], [0.992, 0, 0], [0, 0.998, 0.991]])
    assert _assign(allowed, overlap).tolist() == [1, 0, 2]


def test_saving_and_loading(tmp_path: Path) -> None:
    for d in (detections(3), detections(3, masks=False), detections(0)):
        d.save(tmp_path / "d.npz")
        read = Detections.load(tmp_path / "d.npz")
        assert match(d, read).exact
        assert [getattr(read, k).dtype for k in ("boxes", "scores", "classes")] == [
            np.float32,
            np.float32,
            np.int64,
        ]
    assert [p.name for p in tmp_path.iterdir()] == ["d.npz"]


def test_a_file_that_holds_no_detections(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    detections(3).save(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"d\.npz: no detections"):
        Detections.load(path)
    with pytest.raises(InputError, match="no detections"):
        Detections.load(tmp_path / "absent.npz")


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="scores"):
        Detections.of(np.zeros((3, 4)), np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("kind", ["normalized", "pixels"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_reading_a_compiled_graph(kind: str, layout: str) -> None:
    shape = [2, 3, 100, 200] if layout == "NCHW" else [2, 100, 200, 3]
    io = GraphIO(ImageIO("input_tensor", tuple(shape), layout=layout), boxes=kind)
    boxes = np.zeros((2, 4, 4), np.float32)
    boxes[1, 0] = (0.1, 0.2, 0.5, 1.0) if kind == "normalized" else (20, 20, 100, 100)
    outputs = {
        "num_detections": np.array([[4], [1]], np.int32),
        "detection_boxes": boxes,
        "detection_scores": np.full((2, 4), 0.5, np.float32),
        "detection_classes": np.full((2, 4), 3, np.int32),
    }
    found = from_outputs(outputs, io, 1)
    np.testing.assert_allclose(found.boxes, [[20, 20, 100, 100]], rtol=1e-6)
    assert (len(found), found.masks, found.classes.tolist()) == (1, None, [3])
    del outputs["detection_scores"]
    with pytest.raises(InputError, match="no output 'detection_scores'"):
        from_outputs(outputs, io)


@pytest.mark.parametrize("n", [0, 1, 2, 4, 28])
def test_reading_a_raw_export_in_any_order(n: int) -> None:
    d = detections(n)
    assert d.masks is not None
    arrays: list[np.ndarray] = [d.boxes, d.classes, d.masks[:, None], d.scores, np.array([1344, 1344])]
    for turn in range(len(arrays)):
        names: dict[str, np.ndarray] = {str(i): a for i, a in enumerate(arrays[turn:] + arrays[:turn])}
        assert match(d, from_raw_export(names)).exact
    with pytest.raises(InputError, match="look like the boxes"):
        from_raw_export({"a": d.scores})
