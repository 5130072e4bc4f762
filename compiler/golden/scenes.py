"""Synthetic scenes of filled shapes: the data that `mask_rcnn` was trained on.

A picture is a textured background with three to nine shapes of five classes that hide one another,
and noise over all of it. Everything follows from the seed, so scenes are redrawn instead of being
stored.

The seeds are kept apart: below 10^8 training, 1e9 calibration, 2e9 evaluation, 3e9 golden scenes.
The bytes are those of OpenCV 4.13 and later; older releases differ in a few pixels (see
`EXACT_OPENCV`).

    python -m onnxgraft.golden.scenes DIR --seeds evaluation --scenes 24    # PNGs and annotations.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CLASSES = ("disc", "square", "triangle", "star", "ring")

EXACT_OPENCV = (4, 13)  # resize and fillPoly of older releases round some pixels otherwise

CALIBRATION = 1_000_000_000
EVALUATION = 2_000_000_000
GOLDEN = 3_000_000_000

TILE = 448  # a scene is GRID x GRID tiles of TILE x TILE pixels
GRID = 3
MIN_AREA = 40  # pixels; a shape that shows less is left out


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
    rng = np.random.default_rng(seed)
    height, width = size or (int(rng.integers(240, 420)), int(rng.integers(240, 420)))
    image = _background(rng, height, width)
    masks: list[np.ndarray] = []
    categories: list[int] = []
    for _ in range(int(rng.integers(3, 10))):
        category, mask = _shape(rng, height, width)
        if mask.sum() < MIN_AREA:
            continue
        colour = rng.uniform(0, 255, 3)
        texture = rng.normal(0, rng.uniform(2, 25), (height, width, 1))
        image = np.where(mask[..., None] > 0, colour + texture, image)
        for hidden in masks:
            hidden[mask > 0] = 0
        masks.append(mask)
        categories.append(category)
    image = image + rng.normal(0, rng.uniform(1, 10), image.shape)
    shown = [
        Instance(_bounds(mask), category, mask)
        for mask, category in zip(masks, categories, strict=True)
        if mask.sum() >= MIN_AREA
    ]
    return np.clip(image, 0, 255).astype(np.uint8), shown


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


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Blurred blocks of random colour, float64 [H,W,3]."""
    rows = max(2, height // int(rng.integers(8, 60)))
    columns = max(2, width // int(rng.integers(8, 60)))
    blocks = rng.integers(0, 255, (rows, columns, 3)).astype(np.uint8)
    smooth = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return smooth * rng.uniform(0.3, 0.9) + rng.uniform(0, 60)


def _shape(rng: np.random.Generator, height: int, width: int) -> tuple[int, np.ndarray]:
    """A random class and the mask of one shape of it, uint8 [H,W]."""
    category = int(rng.integers(len(CLASSES)))
    radius = float(np.exp(rng.uniform(np.log(10), np.log(min(height, width) * 0.28))))
    centre = rng.uniform([0, 0], [width, height])
    angle = rng.uniform(0, 2 * np.pi)
    mask = np.zeros((height, width), np.uint8)
    pixel = (int(centre[0]), int(centre[1]))
    if CLASSES[category] == "disc":
        cv2.circle(mask, pixel, int(radius), 1, -1)
    elif CLASSES[category] == "ring":
        cv2.circle(mask, pixel, int(radius), 1, max(2, int(radius * 0.35)))
    else:
        cv2.fillPoly(mask, [_polygon(CLASSES[category], centre, radius, angle)], 1)
    return category, mask


def _polygon(name: str, centre: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Corners of a square, triangle or star, int32 [K,2] as x,y."""
    corners = {"square": 4, "triangle": 3, "star": 10}[name]
    step = np.pi / 5 if name == "star" else 2 * np.pi / corners
    points = []
    for i in range(corners):
        reach = 0.45 if name == "star" and i % 2 else 1.0
        points.append((reach * np.cos(angle + i * step), reach * np.sin(angle + i * step)))
    return np.round(np.array(points) * radius + centre).astype(np.int32)


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
    args.folder.mkdir(parents=True, exist_ok=True)
    base = bases[args.seeds]
    for index in range(args.scenes):
        cv2.imwrite(str(args.folder / f"scene_{index}.png"), scene(index, base))
    annotations = json.dumps(coco(range(args.scenes), base))
    (args.folder / "annotations.json").write_text(annotations)


if __name__ == "__main__":
    main()
