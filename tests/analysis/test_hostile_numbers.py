"""Numbers that no exporter writes are refused by node, not divided by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft.analysis.anchors import grid_strides
from onnxgraft.errors import Refusal
from onnxgraft.golden import catalog
from onnxgraft.tools.inspect import inspect

GRID = np.array([[x, y, x + 8, y + 8] for y in (0, 4) for x in (0, 4)], np.float32)


def test_a_grid_has_a_stride() -> None:
    assert grid_strides(GRID, 2, 2, (8, 8), "n") == (4, None)
    assert grid_strides(GRID * np.array([1, 2, 1, 2], np.float32), 2, 2, (8, 8), "n") == (4, 8)


@pytest.mark.parametrize(
    ("anchors", "reason"),
    [
        (GRID[:, [2, 1, 0, 3]], "inverted or empty"),
        (GRID[:, [0, 3, 2, 1]], "inverted or empty"),
        (GRID[:, [0, 1, 0, 3]], "inverted or empty"),
        (GRID * np.float32("nan"), "not finite"),
        (GRID[:0], "not finite, or there are none"),
    ],
)
def test_anchors_that_are_no_boxes(anchors: np.ndarray, reason: str) -> None:
    with pytest.raises(Refusal, match=f"{reason}.*node 'n'"):
        grid_strides(anchors, 2, 2, (8, 8), "n")


@pytest.mark.parametrize("scale", [0.0, -0.25, float("inf")])
def test_a_scale_of_nothing(scale: float, tmp_path: Path) -> None:
    model = onnx.load(catalog.ROOT / "mask_rcnn" / "model.onnx")
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "RoiAlign" and attribute.name == "spatial_scale":
                attribute.f = scale
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(Refusal, match=r"spatial_scale .* is no scale of a feature map \(node '"):
        inspect(tmp_path / "m.onnx")
