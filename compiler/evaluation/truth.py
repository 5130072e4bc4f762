"""Annotated pictures: from files, or drawn scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError
from onnxgraft.evaluation.cityscapes import read_cityscapes
from onnxgraft.evaluation.instances import read_instances
from onnxgraft.evaluation.panoptic_quality import PanopticTruth
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
        return self._names.get(image_id, str(image_id))

    @cached_property
    def _names(self) -> dict[int, str]:
        return {int(image["id"]): _file_name(image) or str(image["id"]) for image in self.annotations["images"]}


def from_files(images: Path, annotations: Path, limit: int | None = None) -> Truth:
    """A folder of pictures with a COCO instances file. Raises InputError."""
    data = read_instances(annotations)
    if not data["images"]:
        raise InputError(f"{annotations}: no COCO instances: it lists no images")
    files = {int(i["id"]): inside(images, _file_name(i), str(annotations)) for i in data["images"]}
    missing = [path for path in files.values() if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: not there, but {annotations.name} annotates it")
    return Truth(limited(data, limit), lambda i: read_image(files[i]))


def _file_name(image: dict[str, Any]) -> str:
    """Below the folder of pictures; LVIS says where COCO has it, the last part of which is its name."""
    return str(image.get("file_name") or str(image.get("coco_url", "")).rpartition("/")[2])


def from_cityscapes(images: Path, annotations: Path, limit: int | None = None) -> Truth:
    """Cityscapes' pictures with a folder of its own annotations. Raises InputError."""
    data = read_cityscapes(images, annotations)
    files = {int(image["id"]): images / image["file_name"] for image in data["images"]}
    return Truth(limited(data, limit), lambda i: read_image(files[i]))


def from_panoptic(images: Path, panoptic: PanopticTruth, limit: int | None = None) -> Truth:
    """The pictures of a folder that have panoptic annotations. Raises InputError."""
    entries = [dict(panoptic.images[i], id=i) for i in panoptic.segments if i in panoptic.images][:limit]
    if not entries:
        raise InputError(f"{panoptic.file}: it annotates no images")
    files = {int(e["id"]): inside(images, str(e.get("file_name", "")), str(panoptic.file)) for e in entries}
    missing = [path for path in files.values() if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: not there, but {panoptic.file.name} annotates it")
    return Truth({"images": entries, "annotations": [], "categories": []}, lambda i: read_image(files[i]))


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
