"""A model repository for Triton Inference Server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxgraft.deploy.build import Packed, copy_network
from onnxgraft.deploy.rendering import copy, render
from onnxgraft.driver.build_folder import new_folder
from onnxgraft.errors import InputError
from onnxgraft.files import digest
from onnxgraft.manifest import IMAGE_SIZES

CONFIG, MARK = "config.pbtxt", "onnxgraft"
TYPES = {"float32": "TYPE_FP32", "int32": "TYPE_INT32", "uint8": "TYPE_UINT8"}


@dataclass(frozen=True)
class Form:
    """How Triton runs a file: its platform, the file's name there, and the kind of its instances."""

    platform: str
    file: str
    instances: str


ENGINE = Form("tensorrt_plan", "model.plan", "KIND_GPU")
ONNX = Form("onnxruntime_onnx", "model.onnx", "KIND_CPU")


def write(packed: Packed, repository: Path, instances: int = 1, ensemble: bool = False) -> list[Path]:
    """Put a model into a repository; other models of it stay.

    Args:
        packed: the build.
        repository: the folder that the server is given.
        instances: how many of it run side by side.
        ensemble: add a model that decodes and places pictures, and one that joins the two.

    Returns:
        The folders that were written.

    Raises:
        InputError: a folder of that name is not ours, cannot be written, or the build takes no single picture.
    """
    if ensemble and packed.manifest.io.proposals is not None:
        raise InputError("--ensemble: this network takes proposals beside the picture; leave --ensemble out")
    batch = packed.manifest.io.image.batch
    if ensemble and batch != 1:
        raise InputError(f"--ensemble: a request brings one picture, and this build takes {batch}; build with --batch 1")
    written = [_network(packed, repository, instances), _client(packed, repository)]
    if ensemble:
        written += [_preprocess(packed, repository, instances), _ensemble(packed, repository)]
    return written


def _network(packed: Packed, repository: Path, instances: int) -> Path:
    form = ENGINE if packed.is_engine else ONNX
    place = repository / packed.name
    with _replaced(place) as folder:
        _render("config.pbtxt.j2", folder / CONFIG, packed, instances, form)
        (folder / "labels.txt").write_text(packed.labels)
        (folder / "1").mkdir()
        copy_network(packed, folder / "1" / form.file)
    return place


def _preprocess(packed: Packed, repository: Path, instances: int) -> Path:
    place = repository / f"{packed.name}_preprocess"
    with _replaced(place) as folder:
        _render("preprocess.pbtxt.j2", folder / CONFIG, packed, instances, ONNX)
        (folder / "1").mkdir()
        _copy("model.py", folder / "1")
        _place_settings(packed, folder / "1")
    return place


def _ensemble(packed: Packed, repository: Path) -> Path:
    place = repository / f"{packed.name}_pictures"
    with _replaced(place) as folder:
        _render("ensemble.pbtxt.j2", folder / CONFIG, packed, 1, ONNX)
        (folder / "1").mkdir()
        (folder / "1" / "README").write_text("An ensemble has no file of its own; Triton wants the folder of its version.\n")
    return place


def _client(packed: Packed, repository: Path) -> Path:
    """The client stands beside the repository, since every folder in one is taken for a model."""
    place = repository.with_name(f"{repository.name}_client_{packed.name}")
    with _replaced(place) as folder:
        _copy("client.py", folder)
        _place_settings(packed, folder)
        (folder / CONFIG).write_text(f"# {MARK}: what this folder was made for is served as {packed.name}\n")
    return place


def _place_settings(packed: Packed, folder: Path) -> None:
    _copy("preprocess.py", folder)
    io, preprocess = packed.manifest.io, packed.manifest.preprocess
    how: dict[str, Any] = {
        "model": packed.name, "input": io.image.name, "shape": list(io.image.shape), "canvas": list(io.image.canvas),
        "area": list(io.area),
        "dtype": io.image.dtype, "layout": io.image.layout, "order": io.image.order,
        "mean": list(preprocess.mean_in(io.image.order)), "shortest_edge": preprocess.shortest_edge,
        "longest_edge": preprocess.longest_edge, IMAGE_SIZES: io.image_sizes, "boxes": io.boxes,
        "labels": packed.labels.splitlines(),
    }  # fmt: skip
    (folder / "preprocess.json").write_text(json.dumps(how, indent=2) + "\n")


def _render(template: str, path: Path, packed: Packed, instances: int, form: Form) -> None:
    render(
        f"triton/{template}", path, packed, platform=form.platform, file=form.file, kind_of_instance=form.instances,
        instances=instances, types=TYPES, digest=digest(packed.network),
    )  # fmt: skip


def _copy(name: str, folder: Path) -> None:
    copy(f"triton/{name}.j2", folder / name)


def is_ours(folder: Path) -> bool:
    """Whether a model's folder was written here."""
    path = folder / CONFIG
    return path.is_file() and MARK.encode() in path.read_bytes()


def _replaced(place: Path) -> Any:
    return new_folder(place, is_ours, "model of onnxgraft", "--name")
