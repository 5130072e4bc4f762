"""Synthetic scenes of filled shapes: what the trained golden detectors were trained for and are measured on.

A picture is a textured background with three to nine shapes of five classes that hide one another, and noise over all of
it. Everything follows from the seed by exact integer arithmetic, so every machine draws the same bytes, and scenes are
redrawn instead of being stored. Levels (grey values 0 to 255) are counted in LEVEL-ths.

The seeds are kept apart: below 10^8 training, 1e9 calibration, 2e9 evaluation, 3e9 golden scenes.

    python -m onnxgraft.golden.scenes DIR --seeds evaluation --scenes 24    # PNGs and annotations.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("disc", "square", "triangle", "star", "ring")

CALIBRATION = 1_000_000_000
EVALUATION = 2_000_000_000
GOLDEN = 3_000_000_000

TILE = 448  # a scene is GRID x GRID tiles of TILE x TILE pixels
GRID = 3
MIN_AREA = 40  # pixels; a shape that shows less is left out

LEVEL = 256  # parts of one level of grey
PIXEL = 256  # parts of one pixel, for radii
STREAM = 2  # the other half of Philox's key; 0 and 1 belong to other pictures and boxes

TURN = 720  # directions of a full turn
UNIT = 1 << 16  # length of a direction
SCALE = 60  # bits behind the point of the two numbers below
COSINE, SINE = 1152877604888700520, 10061010436790338  # of 1/TURN of a turn


@dataclass(frozen=True)
class Instance:
    """One visible shape: box x1,y1,x2,y2 in pixels, class index, mask uint8 [H,W] of 0 and 1."""

    box: tuple[float, float, float, float]
    category: int
    mask: np.ndarray


class Stream:
    """Integers that follow from a seed: the words of a Philox4x64-10, without floating point."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=np.array([seed, STREAM], np.uint64))

    def between(self, low: int, high: int) -> int:
        """A uniform integer: low <= n < high."""
        return low + (self._bits.random_raw() >> 32) * (high - low) // 2**32

    def bytes(self, *shape: int) -> np.ndarray:
        """Uniform integers 0..255, int64."""
        words = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(56)
        return words.astype(np.int64).reshape(shape)

    def noise(self, deviation: int, *shape: int) -> np.ndarray:
        """Integers int64 of mean 0 and this standard deviation, nearly normal: each the sum of a word's eight bytes.

        Such a sum has mean 1020 and standard deviation 209.02, of which 627 / 2^17 is the reciprocal.
        """
        words = self._bits.random_raw(int(np.prod(shape)))
        every_second = np.uint64(0x00FF00FF00FF00FF)
        pairs = (words & every_second) + (words >> np.uint64(8) & every_second)
        sums = pairs * np.uint64(0x0001000100010001) >> np.uint64(48)  # the top 16 bits gather all four
        return ((sums.astype(np.int64) - 1020) * (deviation * 627) >> 17).reshape(shape)


def draw(seed: int, size: tuple[int, int] | None = None) -> tuple[np.ndarray, list[Instance]]:
    """Draw the picture of `seed`: a uint8 BGR image [H,W,3] and its visible shapes, back to front.

    `size` is (height, width) in pixels; without it the seed chooses both between 240 and 420.
    """
    stream = Stream(seed)
    height, width = size or (stream.between(240, 420), stream.between(240, 420))
    image = _background(stream, height, width)
    masks: list[np.ndarray] = []
    categories: list[int] = []
    for _ in range(stream.between(3, 10)):
        category, mask = _shape(stream, height, width)
        area = int(mask.sum())
        if area < MIN_AREA:
            continue
        colour = np.array([stream.between(0, 255 * LEVEL) for _ in range(3)])
        image[mask] = colour + stream.noise(stream.between(2 * LEVEL, 25 * LEVEL), area, 1)
        for hidden in masks:
            hidden[mask] = False
        masks.append(mask)
        categories.append(category)
    image += stream.noise(stream.between(LEVEL, 10 * LEVEL), height, width, 3)
    shown = [
        Instance(_bounds(mask), category, mask.astype(np.uint8))
        for mask, category in zip(masks, categories, strict=True)
        if mask.sum() >= MIN_AREA
    ]
    return np.clip(image // LEVEL, 0, 255).astype(np.uint8), shown


def scene(index: int, base: int = GOLDEN) -> np.ndarray:
    """The uint8 BGR image [1344,1344,3] of nine tiles, from seeds `base + 9 * index + tile`."""
    tiles = [draw(seed, (TILE, TILE))[0] for seed in _seeds(index, base)]
    rows = [np.concatenate(tiles[r : r + GRID], axis=1) for r in range(0, GRID * GRID, GRID)]
    return np.concatenate(rows, axis=0)


def scene_instances(index: int, base: int = GOLDEN) -> list[Instance]:
    """The visible shapes of `scene(index, base)`, in the scene's coordinates."""
    placed = []
    for tile, seed in enumerate(_seeds(index, base)):
        x, y = tile % GRID * TILE, tile // GRID * TILE
        for shape in draw(seed, (TILE, TILE))[1]:
            mask = np.zeros((GRID * TILE, GRID * TILE), np.uint8)
            mask[y : y + TILE, x : x + TILE] = shape.mask
            x1, y1, x2, y2 = shape.box
            placed.append(replace(shape, box=(x1 + x, y1 + y, x2 + x, y2 + y), mask=mask))
    return placed


def coco(indices: Iterable[int], base: int = EVALUATION) -> dict[str, Any]:
    """Ground truth of scenes as a COCO annotation dictionary, ready for `json.dump`.

    Image ids are the scene indices and files are named `scene_<index>.png`; category ids count from
    0, as the detector's classes do. Masks are compressed RLE with text counts.
    """
    from faster_coco_eval.core import mask as rle

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in indices:
        name = f"scene_{index}.png"
        images.append({"id": index, "file_name": name, "height": GRID * TILE, "width": GRID * TILE})
        for shape in scene_instances(index, base):
            x1, y1, x2, y2 = shape.box
            segmentation = rle.encode(np.asfortranarray(shape.mask))
            counts = segmentation["counts"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": shape.category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(shape.mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {
                        "size": [int(side) for side in segmentation["size"]],
                        "counts": counts.decode() if isinstance(counts, bytes) else counts,
                    },
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _seeds(index: int, base: int) -> range:
    first = base + GRID * GRID * index
    return range(first, first + GRID * GRID)


def _background(stream: Stream, height: int, width: int) -> np.ndarray:
    """Blurred blocks of random colour in parts of a level, int64 [H,W,3]."""
    rows = max(2, height // stream.between(8, 60))
    columns = max(2, width // stream.between(8, 60))
    contrast, brightness = stream.between(LEVEL * 3 // 10, LEVEL * 9 // 10), stream.between(0, 60 * LEVEL)
    tall = _enlarged(stream.bytes(rows, columns, 3), height)
    smooth = _enlarged(tall.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return np.clip(smooth, 0, 255) * contrast + brightness


def _enlarged(blocks: np.ndarray, length: int) -> np.ndarray:
    """The first axis of int64 [B,...] enlarged to `length` by cubic convolution (a = -3/4), the ends repeated."""
    count = len(blocks)
    one = 64  # parts of the distance between two blocks
    place = ((2 * np.arange(length) + 1) * count - length) * one // (2 * length)
    near, t = place // one, place % one
    u = one - t
    # four weights of each place; they add up to 4 * one^3
    weights = (
        -3 * t * u**2, 5 * t**3 - 9 * t**2 * one + 4 * one**3, 5 * u**3 - 9 * u**2 * one + 4 * one**3, -3 * u * t**2
    )  # fmt: skip
    total = sum(
        weight.reshape(-1, *[1] * (blocks.ndim - 1)) * blocks[np.clip(near + tap, 0, count - 1)]
        for tap, weight in enumerate(weights, -1)
    )
    return np.asarray(total) // (4 * one**3)


def _shape(stream: Stream, height: int, width: int) -> tuple[int, np.ndarray]:
    """A random class and the mask of one shape of it, bool [H,W]."""
    category = stream.between(0, len(CLASSES))
    radii = _radii(min(height, width) * 28 * PIXEL // 100)
    radius = radii[stream.between(0, len(radii))]
    centre = stream.between(0, width), stream.between(0, height)
    angle = stream.between(0, TURN)
    x, y = np.arange(width) - centre[0], np.arange(height)[:, None] - centre[1]
    square, pixels = x**2 + y**2, radius // PIXEL
    if CLASSES[category] == "disc":
        return category, square <= pixels**2 + pixels  # to the middle between this pixel and the next
    if CLASSES[category] == "ring":
        thick = max(2, pixels * 35 // 100)
        return category, ((2 * pixels - thick) ** 2 <= 4 * square) & (4 * square <= (2 * pixels + thick) ** 2)
    return category, _inside(_corners(CLASSES[category], radius, angle), x, y)


def _corners(name: str, radius: int, angle: int) -> list[tuple[int, int]]:
    """Corners x,y of a square, triangle or star around 0, in whole pixels."""
    corners = {"square": 4, "triangle": 3, "star": 10}[name]
    points = []
    for i in range(corners):
        x, y = _directions()[(angle + i * TURN // corners) % TURN]
        reach = radius * 45 // 100 if name == "star" and i % 2 else radius
        half = UNIT * PIXEL // 2
        points.append(((x * reach + half) // (UNIT * PIXEL), (y * reach + half) // (UNIT * PIXEL)))
    return points


def _inside(corners: list[tuple[int, int]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which pixels x int64 [W], y int64 [H,1] lie in the polygon or on its edge, bool [H,W].

    The polygon is seen whole from 0, so it is made of the triangles of 0 and each of its edges.
    """
    inside = np.zeros((len(y), len(x)), bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        beyond_a, before_b = ax * y - ay * x >= 0, bx * y - by * x <= 0
        inside |= beyond_a & before_b & ((bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0)
    return inside


@lru_cache
def _radii(largest: int) -> list[int]:
    """Radii in parts of a pixel from ten pixels to `largest`, each 1/64 larger than the one before."""
    radii = [10 * PIXEL]
    while (larger := radii[-1] + radii[-1] // 64) <= largest:
        radii.append(larger)
    return radii


@lru_cache(maxsize=1)
def _directions() -> list[tuple[int, int]]:
    """TURN vectors x,y of length UNIT around the circle, each the one before turned by the same angle."""
    found, x, y = [], 1 << SCALE, 0
    half = 1 << (SCALE - 1)
    for _ in range(TURN):
        found.append(((x * UNIT + half) >> SCALE, (y * UNIT + half) >> SCALE))
        x, y = (x * COSINE - y * SINE) >> SCALE, (x * SINE + y * COSINE) >> SCALE
    return found


def _bounds(mask: np.ndarray) -> tuple[float, float, float, float]:
    ys, xs = np.where(mask)
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


def main() -> None:
    bases = {"calibration": CALIBRATION, "evaluation": EVALUATION, "golden": GOLDEN}
    parser = argparse.ArgumentParser(description="Draw scenes with their COCO annotations.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", choices=bases, default="golden")
    parser.add_argument("--scenes", type=int, default=6, help="how many, counted from 0")
    args = parser.parse_args()
    import cv2  # writes the files; nothing is drawn with it

    args.folder.mkdir(parents=True, exist_ok=True)
    base = bases[args.seeds]
    for index in range(args.scenes):
        cv2.imwrite(str(args.folder / f"scene_{index}.png"), scene(index, base))
    annotations = json.dumps(coco(range(args.scenes), base))
    (args.folder / "annotations.json").write_text(annotations)


if __name__ == "__main__":
    main()
