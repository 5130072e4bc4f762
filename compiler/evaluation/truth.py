"""Annotated pictures: from files, or drawn scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError
from onnxgraft.evaluation.instances import read_instances
from onnxgraft.files import inside
from onnxgraft.golden import scenes
from onnxgraft.runtime.images import read_image

SCENES = 24  # of an evaluation without pictures of its own

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Truth:
    """Annotated pictures: a COCO dictionary, and how to get each picture (uint8 [H, W, 3] BGR) by image id."""

    annotations: dict[str, Any]
    load: Callable[[int], NDArray[np.uint8]]

    @property
    def ids(self) -> list[int]:
        return [int(image["id"]) for image in self.annotations["images"]]

    def name(self, image_id: int) -> str:
        entry = next(i for i in self.annotations["images"] if int(i["id"]) == image_id)
        return str(entry.get("file_name", image_id))


def from_files(images: Path, annotations: Path, limit: int | None = None) -> Truth:
    """A folder of pictures with a COCO instances file. Raises InputError."""
    data = read_instances(annotations)
    if not data["images"]:
        raise InputError(f"{annotations}: no COCO instances: it lists no images")
    files = {int(image["id"]): inside(images, str(image.get("file_name", "")), str(annotations)) for image in data["images"]}
    missing = [path for path in files.values() if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: not there, but {annotations.name} annotates it")
    return Truth(limited(data, limit), lambda i: read_image(files[i]))


def from_semantic(images: Path, semantic: Path, limit: int | None = None) -> Truth:
    """The pictures of a folder that have a `<name>.png` of semantic classes in another. Raises InputError."""
    if not images.is_dir() or not semantic.is_dir():
        raise InputError(f"{semantic if images.is_dir() else images}: no folder")
    wanted = {path.stem for path in semantic.glob("*.png")}
    files = [path for path in sorted(images.iterdir()) if path.stem in wanted and path.suffix.lower() in PICTURES][:limit]
    if not files:
        raise InputError(f"{images}: none of its pictures has a NAME.png in {semantic}")
    entries = [{"id": i, "file_name": path.name} for i, path in enumerate(files)]
    return Truth({"images": entries, "annotations": [], "categories": []}, lambda i: read_image(files[i]))


def from_scenes(count: int = SCENES, base: int | None = None) -> Truth:
    """Scenes drawn from seeds `base` on; by default those of the evaluation set, which no training has seen."""
    first = scenes.EVALUATION if base is None else base
    return Truth(scenes.coco(range(count), first), lambda i: scenes.scene(i, first))


def limited(data: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """The first `limit` images with their annotations."""
    if limit is None:
        return data
    images = data["images"][:limit]
    ids = {image["id"] for image in images}
    return {**data, "images": images, "annotations": [a for a in data["annotations"] if a["image_id"] in ids]}
