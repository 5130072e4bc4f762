"""The quick forms of detectron2's formulas, beside the plain ones."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.detector.geometry import grid_anchors
from onnxgraft.detector.reference import Found, by_location, overlaps, rows_of, suppress, surest
from onnxgraft.detector.spec import RPNLevel


@pytest.mark.parametrize("stride_y", [None, 9])
def test_anchors_of_rows_are_those_of_the_grid(stride_y: int | None) -> None:
    cells = ((-8.0, -4.0, 8.0, 4.0), (-5.0, -5.0, 5.0, 5.0))
    level = RPNLevel(8, 3, 5, (8.0,), (0.5, 1.0), cells, 0.5, 30, "", "", "", None, "", "", stride_y)
    rows = np.array([29, 0, 7, 11, 11])
    np.testing.assert_array_equal(grid_anchors(level, rows), grid_anchors(level)[rows])


def test_rows_are_those_of_all_locations() -> None:
    planes = np.arange(2 * 4 * 3 * 5, dtype=np.float32).reshape(1, 8, 3, 5)
    rows = np.array([7, 0, 29, 12, 12])
    np.testing.assert_array_equal(rows_of(planes, 4, rows), by_location(planes, 4)[rows])


@pytest.mark.parametrize("most", [0, 1, 40, 199, 200, 300])
def test_the_surest_come_first_and_ties_by_their_index(most: int) -> None:
    scores = np.random.default_rng(0).integers(0, 20, 200).astype(np.float32)
    np.testing.assert_array_equal(surest(scores, most), np.argsort(-scores, kind="stable")[:most])


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 400])
def test_suppression_is_greedy_one_by_one(rows: int) -> None:
    rng = np.random.default_rng(1)
    corner, side = rng.uniform(0, 60, (rows, 2)), rng.uniform(5, 40, (rows, 2))
    found = Found(np.concatenate([corner, corner + side], 1), rng.integers(0, 50, rows) / 50.0, rng.integers(0, 3, rows),
                  np.arange(rows))  # fmt: skip
    kept: list[int] = []
    for row in np.argsort(-found.scores, kind="stable"):
        same = [k for k in kept if found.classes[k] == found.classes[row]]
        if not same or not (overlaps(found.boxes[same], found.boxes[[row]]) > 0.5).any():
            kept.append(int(row))
    ours = suppress(found, 0.5)
    assert sorted(ours.origin.tolist()) == sorted(kept)
    assert (np.diff(ours.scores) <= 0).all()
