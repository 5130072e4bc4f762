"""Instances and a semantic map merge into panoptic segments, as detectron2's Panoptic FPN merges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.detector.panoptic import Combine
from onnxgraft.runtime.postprocess import ImageDetections


@dataclass(frozen=True, eq=False)
class Panoptic:
    """Segments of one image.

    ids    int32 [H, W]: the segment of each pixel, 0 where there is none
    info   one entry a segment, as detectron2 gives it: {"id", "isthing", "category_id"} and, of things, {"score",
           "instance_id"} (its place among the detections), of stuff, {"area"}. Things count by the detections' classes,
           stuff by the semantic ones
    """

    ids: NDArray[np.int32]
    info: tuple[dict[str, Any], ...]


def combine(found: ImageDetections, classes: NDArray[np.int32], settings: Combine | None = None) -> Panoptic:
    """detectron2's combine_semantic_and_instance_outputs.

    found: detections with masks, in the image that `classes` (int32 [H, W], semantic class of each pixel) is of.
    Semantic class 0 stands for all things and makes no segment.
    """
    settings = settings or Combine()
    scores = found.detections.scores
    ids = np.zeros(classes.shape, np.int32)
    info: list[dict[str, Any]] = []
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= settings.instances_score_threshold]
    for index, patch in zip(order.tolist(), found.select(order).patches(), strict=True):
        area, below = int(patch.mask.sum()), ids[patch.slices]
        covered = int((below[patch.mask] > 0).sum())
        if area == 0 or covered / area > settings.overlap_threshold:
            continue
        below[patch.mask & (below == 0)] = len(info) + 1
        info.append({"id": len(info) + 1, "isthing": True, "score": float(scores[index]),
                     "category_id": int(found.detections.classes[index]), "instance_id": index})  # fmt: skip
    for label in np.unique(classes).tolist():
        mask = (classes == label) & (ids == 0)
        area = int(mask.sum())
        if label == 0 or area < settings.stuff_area_limit:
            continue
        ids[mask] = len(info) + 1
        info.append({"id": len(info) + 1, "isthing": False, "category_id": int(label), "area": area})
    return Panoptic(ids, tuple(info))


def png_colours(ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    """COCO's panoptic picture uint8 [H, W, 3] RGB: id = R + 256 G + 65536 B."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def to_json(
    panoptic: Panoptic, file_name: str, names: Sequence[str] = (), semantic_names: Sequence[str] = ()
) -> dict[str, Any]:
    """COCO's panoptic result of one image: {"file_name" of the picture, "segments_info": [{"id", "category_id", "isthing",
    "area", "bbox" [x, y, width, height], of things "score", "name" where it is known}]}."""
    segments = []
    for entry in panoptic.info:
        rows, columns = np.nonzero(panoptic.ids == entry["id"])
        left, top = int(columns.min()), int(rows.min())
        box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        segment = {key: entry[key] for key in ("id", "category_id", "isthing")} | {"area": len(rows), "bbox": box}
        segment |= {"score": round(entry["score"], 6)} if "score" in entry else {}
        known, label = names if entry["isthing"] else semantic_names, entry["category_id"]
        segments.append(segment | ({"name": known[label]} if label < len(known) else {}))
    return {"file_name": file_name, "segments_info": segments}
