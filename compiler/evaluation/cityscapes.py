"""Cityscapes' own annotations as COCO instances, so that COCO's AP can be measured on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import mask as coco_mask
from PIL import Image

from onnxgraft.errors import InputError

# The classes with instances, by Cityscapes' label ids and in the order of detectron2's classes.
CLASSES = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
PICTURE, IDS = "_leftImg8bit.png", "_gtFine_instanceIds.png"


def read_cityscapes(images: Path, annotations: Path) -> dict[str, Any]:
    """COCO instances of the pictures `CITY/NAME_leftImg8bit.png` and annotations `CITY/NAME_gtFine_instanceIds.png`.

    A pixel's value is its label id times 1000 and an instance's number; a label id alone is a group, which counts as a
    crowd. File names are those below `images`.

    Raises:
        InputError: no picture is annotated, or one cannot be read.
    """
    entries: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for path in sorted(annotations.rglob(f"*{IDS}")):
        name = path.relative_to(annotations).as_posix().replace(IDS, PICTURE)
        if not (images / name).is_file():
            continue
        try:
            with Image.open(path) as opened:
                ids = np.asarray(opened).astype(np.int64)
        except Exception as error:  # decoders raise many kinds
            raise InputError(f"{path}: not a readable picture of instance ids ({error})") from error
        entries.append({"id": len(entries), "file_name": name, "height": ids.shape[0], "width": ids.shape[1]})
        for value in np.unique(ids).tolist():
            label = value if value < 1000 else value // 1000
            if label in CLASSES:
                rows.append(_annotation(len(rows) + 1, len(entries) - 1, label, ids == value, value < 1000))
    if not entries:
        raise InputError(f"{annotations}: no NAME{IDS} of a NAME{PICTURE} in {images}")
    categories = [{"id": label, "name": name} for label, name in CLASSES.items()]
    return {"images": entries, "annotations": rows, "categories": categories}


def _annotation(number: int, image: int, label: int, mask: np.ndarray, crowd: bool) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(rows.min())
    counts = rle["counts"]
    return {
        "id": number, "image_id": image, "category_id": label, "iscrowd": int(crowd), "area": len(rows),
        "bbox": [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
        "segmentation": {"size": list(mask.shape), "counts": counts.decode() if isinstance(counts, bytes) else counts},
    }  # fmt: skip
