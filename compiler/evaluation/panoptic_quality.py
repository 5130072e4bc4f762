"""Panoptic quality, as COCO's panopticapi and detectron2's COCOPanopticEvaluator count it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxgraft.errors import InputError
from onnxgraft.files import inside, read_json

_VOID = 0  # id of pixels without a segment


@dataclass
class _Count:
    """Of one category: sum of IoU over true positives, and numbers of true and false positives and of misses."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0


@dataclass(frozen=True)
class PanopticTruth:
    """COCO's panoptic annotations: segments by image id, the folder of their pictures, and categories by id."""

    images: Mapping[int, Mapping[str, Any]]
    segments: Mapping[int, Mapping[str, Any]]
    pictures: Path
    categories: Mapping[int, Mapping[str, Any]]
    file: Path

    @property
    def things(self) -> list[int]:
        """Category ids of things, in the order of a detector's classes."""
        return sorted(i for i, c in self.categories.items() if c.get("isthing", 1))

    @property
    def stuff(self) -> list[int]:
        """Category ids of stuff, in the order of semantic classes from 1 on (0 stands for all things)."""
        return sorted(i for i, c in self.categories.items() if not c.get("isthing", 1))

    def ids(self, image_id: int) -> NDArray[np.int64]:
        """The segment of each pixel of an annotated image: int64 [H, W]. Raises InputError."""
        if image_id not in self.segments:
            raise InputError(f"{self.file}: has no segments of image {image_id}")
        path = inside(self.pictures, str(self.segments[image_id].get("file_name", "")), str(self.file))
        try:
            with Image.open(path) as opened:
                colours = np.asarray(opened.convert("RGB"), np.int64)
        except Exception as error:  # as in images.read_image: decoders raise many kinds
            raise InputError(f"{path}: not a readable picture of segments ({error})") from error
        return np.asarray(colours @ np.array([1, 256, 65536]))


def read_truth(path: Path, pictures: Path | None = None) -> PanopticTruth:
    """COCO's panoptic annotations; their pictures lie in a folder of the file's name beside it unless another is given.

    Raises:
        InputError: the file cannot be read, or is none.
    """
    data = read_json(path, "COCO panoptic annotations")
    try:
        segments = {int(a["image_id"]): a for a in data["annotations"]}
        for entry in segments.values():
            [(int(s["id"]), int(s["category_id"])) for s in entry["segments_info"]]
        images = {int(image["id"]): image for image in data["images"]}
        categories = {int(c["id"]): c for c in data["categories"]}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: no COCO panoptic annotations: an entry has no usable {error}") from error
    folder = pictures or path.with_suffix("")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of panoptic pictures; give it with --panoptic-pictures")
    return PanopticTruth(images, segments, folder, categories, path)


class PanopticQuality:
    """Counts segments image by image: PQ = SQ * RQ, SQ the mean IoU of what was found, RQ its F1 (Kirillov et al. 2019)."""

    def __init__(self, truth: PanopticTruth) -> None:
        self.truth = truth
        self.counts = {category: _Count() for category in truth.categories}

    def add(self, image_id: int, ids: NDArray[np.int32], info: Sequence[Mapping[str, Any]]) -> None:
        """Count an image.

        Args:
            image_id: of the annotations.
            ids: int32 [H, W], the segment of each pixel, 0 where there is none.
            info: as runtime.panoptic.Panoptic has it; a segment's category is its class among things or stuff.

        Raises:
            InputError: the sizes differ, or a class has no category.
        """
        wanted = self.truth.ids(image_id)
        if wanted.shape != ids.shape:
            (tall, wide), (height, width) = wanted.shape, ids.shape
            raise InputError(f"{self.truth.file}: image {image_id} is {tall}x{wide} there, the picture {height}x{width}")
        found = {int(entry["id"]): self._category(entry) for entry in info}
        annotated = self.truth.segments[image_id]["segments_info"]
        self._count(_Overlap.of(wanted, ids), {int(s["id"]): s for s in annotated}, found)

    def _category(self, entry: Mapping[str, Any]) -> int:
        thing = bool(entry["isthing"])
        known, label = self.truth.things if thing else self.truth.stuff, int(entry["category_id"]) - (not thing)
        if not 0 <= label < len(known):
            kind = "things" if thing else "stuff"
            raise InputError(f"{self.truth.file}: has {len(known)} categories of {kind}, the network finds class {label}")
        return known[label]

    def _count(self, overlap: _Overlap, annotated: Mapping[int, Mapping[str, Any]], found: Mapping[int, int]) -> None:
        matched_truth, matched = set(), set()
        for (a, b), shared in overlap.shared.items():
            if a not in annotated or b not in found or annotated[a].get("iscrowd") or annotated[a]["category_id"] != found[b]:
                continue
            union = overlap.truth[a] + overlap.found[b] - shared - overlap.shared.get((_VOID, b), 0)
            if shared / union > 0.5:
                count = self.counts[found[b]]
                count.tp, count.iou = count.tp + 1, count.iou + shared / union
                matched_truth.add(a)
                matched.add(b)
        crowds = {int(s["category_id"]): a for a, s in annotated.items() if s.get("iscrowd")}
        for a, segment in annotated.items():
            if a not in matched_truth and not segment.get("iscrowd"):
                self.counts[int(segment["category_id"])].fn += 1
        for b, category in found.items():
            if b in matched:
                continue
            excused = overlap.shared.get((_VOID, b), 0) + overlap.shared.get((crowds.get(category, -1), b), 0)
            if excused / max(overlap.found.get(b, 0), 1) <= 0.5:
                self.counts[category].fp += 1

    def report(self) -> dict[str, Any]:
        """{"PQ", "SQ", "RQ", the same with "_things" and "_stuff", "per_class": {name: PQ}}: means over the categories that
        occur, in 0..1; None where none does."""
        report: dict[str, Any] = {}
        for suffix, chosen in (("", [*self.truth.things, *self.truth.stuff]), ("_things", self.truth.things),
                               ("_stuff", self.truth.stuff)):  # fmt: skip
            rows = [_quality(self.counts[c]) for c in chosen if _occurs(self.counts[c])]
            means = np.mean(rows, axis=0).tolist() if rows else [None] * 3
            report |= dict(zip((f"PQ{suffix}", f"SQ{suffix}", f"RQ{suffix}"), means, strict=True))
        names = {c: str(self.truth.categories[c].get("name", c)) for c in self.counts}
        report["per_class"] = {names[c]: _quality(n)[0] for c, n in sorted(self.counts.items()) if _occurs(n)}
        return report


@dataclass(frozen=True)
class _Overlap:
    """Pixels of each segment of the truth, of each that was found, and of each pair."""

    truth: dict[int, int] = field(default_factory=dict)
    found: dict[int, int] = field(default_factory=dict)
    shared: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def of(cls, truth: NDArray[np.int64], found: NDArray[np.int32]) -> _Overlap:
        """Of two maps [H, W]."""
        offset = int(found.max(initial=0)) + 1
        pairs, numbers = np.unique(truth * offset + found, return_counts=True)
        shared = {(int(p) // offset, int(p) % offset): int(n) for p, n in zip(pairs, numbers, strict=True)}
        areas: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for pair, number in shared.items():
            for side, area in zip(pair, areas, strict=True):
                area[side] = area.get(side, 0) + number
        return cls(*areas, shared)


def _occurs(count: _Count) -> bool:
    return count.tp + count.fp + count.fn > 0


def _quality(count: _Count) -> tuple[float, float, float]:
    recognised = count.tp / (count.tp + 0.5 * count.fp + 0.5 * count.fn)
    segmented = count.iou / count.tp if count.tp else 0.0
    return segmented * recognised, segmented, recognised
