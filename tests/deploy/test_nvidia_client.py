"""Clients of NVIDIA's detectron2 sample on our graphs: what its conventions read, written here anew.

They take the first input and outputs by their index (count, boxes, scores, classes, masks), and multiply all four columns of a
normalized box by the input's height over the picture's one scale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import onnxgraft
from onnxgraft import Options
from onnxgraft.golden.scenes import draw
from onnxgraft.manifest import Manifest
from onnxgraft.runtime.images import ResizeRule
from onnxgraft.runtime.session import Session

SIZE = (480, 360)  # of the picture; the rule makes it 256x192 of it, by one factor
RULE = ResizeRule(192, 256)


def by_index(build: Path, picture: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
    """Boxes, scores, classes and masks of one picture as such a client has them."""
    session = onnxruntime.InferenceSession(str(build / Manifest.read(build).runnable), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()  # a second one would be left unfilled
    (placed, placement) = Session(build, engine="onnxruntime", rule=RULE).place(picture)
    count, boxes, scores, classes, masks = session.run(None, {image.name: placed[None]})
    scale = max(placement.resized[0] / picture.shape[0], placement.resized[1] / picture.shape[1])
    n = int(count[0, 0])  # `int(count[0])` is an error in newer versions of NumPy
    return boxes[0, :n] * (image.shape[2] / scale), scores[0, :n], classes[0, :n], masks[0, :n]


@pytest.mark.parametrize("size", [(256, 256), (256, 320)])
def test_their_reading_is_right_on_a_square_canvas(tmp_path: Path, golden_model: Path, size: tuple[int, int]) -> None:
    options = Options(target="tensorrt", engine=False, size=size, checks=False, proof=False)
    onnxgraft.compile("mask_rcnn", tmp_path / "out", options)
    picture = draw(5, SIZE)[0]
    (result,) = Session(tmp_path / "out", engine="onnxruntime", rule=RULE).run([picture])
    wanted = result.raw
    boxes, scores, classes, masks = by_index(tmp_path / "out", picture)
    assert len(wanted) > 5
    assert np.array_equal(scores, wanted.scores)
    assert np.array_equal(classes, wanted.classes)
    assert np.array_equal(masks, wanted.masks)
    assert (boxes.dtype, classes.dtype) == (np.float32, np.int32)
    own = wanted.boxes * np.float32(SIZE[0] / 256)  # the first column, their ymin, is x1
    np.testing.assert_allclose(boxes[:, 1::2], own[:, 1::2], rtol=1e-5, atol=1e-3)
    squeezed = own[:, 0::2] * np.float32(size[0] / size[1])  # right where height and width are one
    np.testing.assert_allclose(boxes[:, 0::2], squeezed, rtol=1e-5, atol=1e-3)
