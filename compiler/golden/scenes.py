"""Synthetic scenes of filled shapes: what the trained golden detectors were trained for and are measured on.

A picture is a textured background with three to nine shapes of five classes that hide one another, and noise over all of
it. Everything follows from the seed by exact integer arithmetic, so every machine draws the same bytes, and scenes are
redrawn instead of being stored. Levels (grey values 0 to 255) are counted in LEVEL-ths.

The seeds are kept apart: below 10^8 training, 1e9 calibration, 2e9 evaluation, 3e9 golden scenes.

    python -m onnxgraft.golden.scenes DIR --seeds evaluation --scenes 24    # PNGs and annotations.json
    python -m onnxgraft.golden.scenes DIR --scenes 100 --size 320 320       # of one tile of this size each
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle
from PIL import Image

from onnxgraft.golden.shapes import CLASSES, Stream, shape_of

CALIBRATION = 1_000_000_000
EVALUATION = 2_000_000_000
GOLDEN = 3_000_000_000

TILE = 448  # a scene is GRID x GRID tiles of TILE x TILE pixels
GRID = 3
MIN_AREA = 40  # pixels; a shape that shows less is left out

LEVEL = 256  # parts of one level of grey


@dataclass(frozen=True)
class Instance:
    """One visible shape: box x1,y1,x2,y2 in pixels, class index, mask uint8 [H,W] of 0 and 1."""

    box: tuple[float, float, float, float]
    category: int
    mask: np.ndarray


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
        category, mask = shape_of(stream, height, width)
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


def coco(indices: Iterable[int], base: int = EVALUATION, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Ground truth of scenes as a COCO annotation dictionary, ready for `json.dump`.

    With `size` (height, width in pixels), a scene is what `draw(base + index, size)` draws.

    Image ids are the scene indices and files are named `scene_<index>.png`; category ids count from
    0, as the detector's classes do. Masks are compressed RLE with text counts.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    height, width = size or (GRID * TILE, GRID * TILE)
    for index in indices:
        name = f"scene_{index}.png"
        images.append({"id": index, "file_name": name, "height": height, "width": width})
        for shape in draw(base + index, size)[1] if size else scene_instances(index, base):
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


def _bounds(mask: np.ndarray) -> tuple[float, float, float, float]:
    ys, xs = np.where(mask)
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


def main() -> None:
    bases = {"calibration": CALIBRATION, "evaluation": EVALUATION, "golden": GOLDEN}
    parser = argparse.ArgumentParser(description="Draw scenes with their COCO annotations.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", choices=bases, default="golden")
    parser.add_argument("--scenes", type=int, default=6, help="how many, counted from 0")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="one tile of this size instead of nine")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    base = bases[args.seeds]
    for index in range(args.scenes):
        image = draw(base + index, args.size)[0] if args.size else scene(index, base)
        Image.fromarray(image[..., ::-1]).save(args.folder / f"scene_{index}.png")
    annotations = json.dumps(coco(range(args.scenes), base, args.size))
    (args.folder / "annotations.json").write_text(annotations)


if __name__ == "__main__":
    main()
