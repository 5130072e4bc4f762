"""How one picture looks to the file and to the build, and what each of them answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxgraft.detector.spec import WHITE
from onnxgraft.manifest import IMAGE_SIZES, GraphIO
from onnxgraft.runtime.proposals import grid

Picture = NDArray[np.uint8]


def file_feeds(
    inputs: Sequence[gs.Tensor], picture: Picture, order: str, rows: int = 1000, white: float = WHITE
) -> dict[str, NDArray[Any]]:
    """A picture, uint8 BGR [H, W, 3], as the inputs of the file want it.

    Args:
        inputs: of the file, the image first.
        order: of its channels, BGR or RGB.
        rows: proposals that are drawn, where it takes any.
        white: what white is in its image.
    """
    image, *others = inputs
    array: NDArray[Any] = picture if order == "BGR" else picture[..., ::-1]
    shape = list(image.shape)
    if shape[-1] != 3 or shape[-3:][0] == 3:
        array = array.transpose(2, 0, 1)
    array = np.ascontiguousarray(array.reshape([1] * (len(shape) - 3) + list(array.shape)), np.dtype(image.dtype))
    if white != WHITE:
        array = array * np.float32(white / WHITE)
    size = picture.shape[0], picture.shape[1]
    return {image.name: array} | {t.name: grid(None, size, rows) for t in others}


def build_feeds(
    io: GraphIO, pictures: Sequence[Picture], canvas: tuple[int, int], mean: Sequence[float]
) -> dict[str, NDArray[Any]]:
    """Pictures, uint8 BGR [h, w, 3], at the top left of the canvas, as the compiled graph wants them.

    mean: what fills the rest, in BGR; of a graph that sees a part of the canvas alone, black does.
    """
    described = io.image
    batch = []
    for picture in pictures:
        lying = np.empty((*canvas, 3), np.float32)
        lying[:] = np.asarray(mean if io.content is None else (0, 0, 0), np.float32)
        lying[: picture.shape[0], : picture.shape[1]] = picture
        lying = lying if described.order == "BGR" else lying[..., ::-1]
        batch.append(lying if described.layout == "NHWC" else lying.transpose(2, 0, 1))
    images = np.ascontiguousarray(np.stack(batch))
    if described.dtype == "uint8":
        images = images.round().astype(np.uint8)
    feeds: dict[str, NDArray[Any]] = {described.name: images}
    if io.image_sizes:
        feeds[IMAGE_SIZES] = np.array([p.shape[:2] for p in pictures], np.float32)
    if io.proposals is not None:
        rows = io.proposals.shape[-2]
        feeds[io.proposals.name] = np.stack([grid(None, (p.shape[0], p.shape[1]), rows) for p in pictures])
    return feeds


def made_picture(seed: int, size: tuple[int, int]) -> Picture:
    """A picture with structure at every scale, the same on every machine: uint8 [H, W, 3]."""
    height, width = size
    picture = np.zeros((height, width, 3), np.float64)
    for number, cell in enumerate((128, 48, 16)):
        rows, columns = height // cell + 1, width // cell + 1
        bits = np.random.Philox(seed + number).random_raw(3 * rows * columns)
        coarse = (bits % 256).astype(np.float64).reshape(rows, columns, 3)
        picture += coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width] * (0.5, 0.3, 0.2)[number]
    return picture.round().clip(0, 255).astype(np.uint8)
