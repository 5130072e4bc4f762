"""Pictures of detections: masks, keypoints, boxes and labels on the image; of segments and semantic maps."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxgraft.runtime import labels
from onnxgraft.runtime.panoptic import Panoptic
from onnxgraft.runtime.postprocess import ImageDetections
from onnxgraft.runtime.session import ImageResult

Colour = tuple[int, int, int]
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN = 0.618033988749895
_KEYPOINT_SCORE = 0.05  # below it a keypoint is not drawn, as by detectron2's Visualizer
# COCO's person, keypoints counted from 0: face, arms, trunk, legs.
_PERSON = ((0, 1), (0, 2), (1, 3), (2, 4), (1, 2), (3, 5), (4, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 6), (5, 11),
           (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16))  # fmt: skip


def colour(index: int) -> Colour:
    """BGR colour of a class: neighbouring classes are far apart in hue; the same in every run."""
    hue = (0.02 + index * _GOLDEN) % 1.0
    lightness = (0.52, 0.42, 0.62)[index // 12 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
    return round(blue * 255), round(green * 255), round(red * 255)


def draw(
    image: NDArray[np.uint8],
    found: ImageDetections,
    names: Sequence[str] | None = None,
    min_score: float = 0.0,
    alpha: float = 0.45,
    threshold: float = 0.5,
) -> NDArray[np.uint8]:
    """A copy of `image` (uint8 [H, W, 3] BGR) with the detections of at least `min_score`.

    Lower scores are drawn first, so that the surest lie on top. names: by class index; an index
    past its end is written as its number. alpha: strength of the masks; threshold: theirs.
    """
    canvas = np.array(image, np.uint8, order="C")
    chosen = found.select(found.detections.scores >= min_score)
    chosen = chosen.select(np.argsort(chosen.detections.scores, kind="stable"))
    detections = chosen.detections
    colours = [colour(int(c)) for c in detections.classes]
    for patch, bgr in zip(chosen.patches(threshold), colours, strict=False):
        _tint(canvas[patch.slices], patch.mask, bgr, alpha)
    pen = max(1, round(min(image.shape[:2]) / 450))
    corners = np.rint(np.nan_to_num(detections.boxes)).astype(int)
    for (x1, y1, x2, y2), bgr in zip(corners.tolist(), colours, strict=True):
        cv2.rectangle(canvas, (x1, y1), (x2, y2), bgr, pen)
    if chosen.keypoints is not None:
        for points, bgr in zip(chosen.keypoints, colours, strict=True):
            _keypoints(canvas, points, bgr, pen)
    rows = zip(detections.classes, detections.scores, strict=True)
    _labels(canvas, corners, [f"{_name(int(label), names)} {score:.2f}" for label, score in rows], colours)
    return canvas


def draw_result(
    result: ImageResult,
    names: Sequence[str] | None = None,
    semantic_names: Sequence[str] | None = None,
    min_score: float = 0.0,
) -> NDArray[np.uint8]:
    """The original picture, uint8 [H, W, 3] BGR, with whatever a network found in it.

    That is its panoptic segments, else its semantic map and the detections of at least `min_score`.
    """
    if result.panoptic is not None:
        return draw_panoptic(result.image, result.panoptic, names, semantic_names)
    image = result.image if result.semantic is None else draw_semantic(result.image, result.semantic, semantic_names)
    return draw(image, result.found, names, min_score)


def draw_semantic(
    image: NDArray[np.uint8], classes: NDArray[np.int32], names: Sequence[str] | None = None, alpha: float = 0.45
) -> NDArray[np.uint8]:
    """A copy of `image` with the semantic class of each pixel (int32 [H, W]) tinted and named."""
    canvas = np.array(image, np.uint8, order="C")
    regions = [(classes == label, int(label), _name(int(label), names)) for label in np.unique(classes)]
    _regions(canvas, regions, alpha)
    return canvas


def draw_panoptic(
    image: NDArray[np.uint8],
    panoptic: Panoptic,
    names: Sequence[str] | None = None,
    semantic_names: Sequence[str] | None = None,
    alpha: float = 0.45,
) -> NDArray[np.uint8]:
    """A picture with its panoptic segments tinted, outlined and named; stuff in other colours than things.

    Args:
        image: uint8 [H, W, 3] BGR; not changed.
        panoptic: segments of the same H and W.
        names, semantic_names: of things and of stuff, by class index.
        alpha: strength of the tint, 0..1.

    Returns:
        uint8 [H, W, 3] BGR.
    """
    canvas = np.array(image, np.uint8, order="C")
    things = 1 + max((entry["category_id"] for entry in panoptic.info if entry["isthing"]), default=0)
    regions = []
    for entry in panoptic.info:
        label, thing = entry["category_id"], entry["isthing"]
        text = f"{_name(label, names)} {entry['score']:.2f}" if thing else _name(label, semantic_names)
        regions.append((panoptic.ids == entry["id"], label if thing else things + label, text))
    _regions(canvas, regions[::-1], alpha)
    return canvas


def _regions(canvas: NDArray[np.uint8], regions: Sequence[tuple[NDArray[np.bool_], int, str]], alpha: float) -> None:
    for mask, index, _ in regions:
        _tint(canvas, mask, colour(index), alpha)
    spots, words, colours = [], [], []
    for mask, index, text in sorted(regions, key=lambda region: int(region[0].sum())):  # the largest chooses first
        rows, columns = np.nonzero(mask)
        if len(rows):
            middle = len(rows) // 2  # a pixel of the region in its middle row
            spots.append([columns[middle], rows[middle]] * 2)
            words.append(text)
            colours.append(colour(index))
    _labels(canvas, np.array(spots, np.int64).reshape(-1, 4), words, colours)


def _keypoints(canvas: NDArray[np.uint8], points: NDArray[np.float32], bgr: Colour, pen: int) -> None:
    """Dots, and the bones of a person where there are COCO's 17 keypoints."""
    seen = [tuple(np.rint(p[:2]).astype(int).tolist()) if p[2] >= _KEYPOINT_SCORE else None for p in np.nan_to_num(points)]
    for a, b in _PERSON if len(points) == 17 else ():
        start, end = seen[a], seen[b]
        if start is not None and end is not None:
            cv2.line(canvas, start, end, bgr, pen, cv2.LINE_AA)
    for place in seen:
        if place is not None:
            cv2.circle(canvas, place, pen + 1, bgr, cv2.FILLED, cv2.LINE_AA)


def _name(index: int, names: Sequence[str] | None) -> str:
    return names[index] if names is not None and index < len(names) else str(index)


def _tint(region: NDArray[np.uint8], mask: NDArray[np.bool_], bgr: Colour, alpha: float) -> None:
    if not mask.any():
        return
    mixed = np.arange(256)[:, None] * (1 - alpha) + np.array(bgr, np.float32) * alpha  # of every value a channel can have
    table = np.rint(mixed).astype(np.uint8)[None]
    cv2.copyTo(cv2.LUT(region, table), mask.view(np.uint8), region)
    edges, _ = cv2.findContours(np.pad(mask.view(np.uint8), 1), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(region, edges, -1, bgr, 1, offset=(-1, -1))


@dataclass(frozen=True)
class _Text:
    """A label's text as OpenCV writes it: its scale, the size of its plate, and where its line lies in it."""

    words: str
    scale: float
    plate: tuple[int, int]
    baseline: int

    @classmethod
    def of(cls, words: str, canvas: tuple[int, int]) -> _Text:
        height, width = canvas
        scale = max(0.4, min(height, width) / 1800)
        words = words.encode("ascii", "replace").decode()  # OpenCV's fonts hold nothing else
        (text_w, text_h), below = cv2.getTextSize(words, _FONT, scale, 1)
        if text_w + 4 > width:
            scale *= max(0.2, (width - 4) / text_w)
            (text_w, text_h), below = cv2.getTextSize(words, _FONT, scale, 1)
        return cls(words, scale, (text_w + 4, text_h + below + 3), text_h + 1)


def _labels(canvas: NDArray[np.uint8], boxes: NDArray[np.int64], words: Sequence[str], colours: Sequence[Colour]) -> None:
    """A label for each box int64 [n, 4], the last ones choosing their place first; a line leads to one that lies apart.
    A label that finds no place near its box is left out: it would hide another."""
    size = (canvas.shape[0], canvas.shape[1])
    texts = [_Text.of(text, size) for text in words]
    places = labels.arrange(boxes[::-1], [text.plate for text in texts[::-1]], size)[::-1]
    rows = zip(boxes.tolist(), texts, places, colours, strict=True)
    found = [(box, text, place, bgr) for box, text, place, bgr in rows if place is not None]
    for box, text, place, bgr in found:
        x, y = place[0] + text.plate[0] // 2, place[1] + text.plate[1] // 2
        corner = int(np.clip(x, box[0], box[2])), int(np.clip(y, box[1], box[3]))
        if max(abs(corner[0] - x) - text.plate[0] // 2, abs(corner[1] - y) - text.plate[1] // 2) > 2:
            cv2.line(canvas, corner, (x, y), bgr, 1, cv2.LINE_AA)
    for _, text, place, bgr in found:
        _plate(canvas, place, text, bgr)


def _plate(canvas: NDArray[np.uint8], place: tuple[int, int], text: _Text, bgr: Colour) -> None:
    """Text on a filled plate whose top left is `place`."""
    (left, top), (width, height) = place, text.plate
    cv2.rectangle(canvas, (left, top), (left + width - 1, top + height - 1), bgr, cv2.FILLED)
    luminance = 0.114 * bgr[0] + 0.587 * bgr[1] + 0.299 * bgr[2]
    ink = (0, 0, 0) if luminance > 125 else (255, 255, 255)
    cv2.putText(canvas, text.words, (left + 2, top + text.baseline), _FONT, text.scale, ink, 1, cv2.LINE_AA)
