"""Golden graphs: detectors that come with the source tree, found by name.

The trained ones are stored whole, some packed (.xz). Of the others only the structure is stored:
`weights.json` beside it says how the weights follow from a seed. `resolve` writes the complete
file once into a cache. The weights are made of raw Philox bits by exact float32 arithmetic, so the
file has the same bytes on every machine and NumPy version.
"""

from __future__ import annotations

import difflib
import hashlib
import lzma
from pathlib import Path

from onnxgraft.errors import InputError
from onnxgraft.files import read_json, write_atomically
from onnxgraft.golden.weights import PACKED, write_seeded
from onnxgraft.manifest import Manifest, is_build

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
_INSTALLED = Path(__file__).resolve().parents[1] / "golden_graphs"  # in a wheel, with mask_rcnn alone
ROOT = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "golden_graphs"


def names() -> list[str]:
    """Every golden graph as `NAME` or `NAME@VARIANT`, e.g. `mask_rcnn` and `mask_rcnn@opset11`."""
    found = []
    for file in (*ROOT.glob("*/model*.onnx"), *ROOT.glob(f"*/model*.onnx{PACKED}")):
        variant = file.name.partition(".")[0].removeprefix("model").removeprefix("_")
        found.append(f"{file.parent.name}@{variant}" if variant else file.parent.name)
    return sorted(found)


def installed() -> bool:
    """Whether these are the golden graphs of an installed package, which has not all of them."""
    return ROOT == _INSTALLED


def folder(name: str) -> Path:
    """The folder of a golden graph: `meta.json`, answers in `reference/scene_<i>.npz`.

    Raises InputError when there is no such golden graph.
    """
    if name not in names():
        known = ", ".join(names()) or f"none, as {ROOT} is not there"
        near = difflib.get_close_matches(name, names(), 1, 0.75)
        hint = f"; did you mean {near[0]!r}?" if near else f" (golden graphs: {known})"
        if installed() and not near:
            hint = f" (golden graphs: {known}; a clone of the repository has the others)"
        raise InputError(f"{name!r} is neither a file nor a golden graph{hint}")
    return ROOT / name.partition("@")[0]


def evaluation(model: str) -> Path | None:
    """The stored detections of a trained golden graph on drawn scenes; None for what brings no annotated scenes along."""
    stored = ROOT / model.partition("@")[0] / "evaluation"
    return stored if model in names() and stored.is_dir() else None


def resolve(model: str, cache: Path) -> Path:
    """The .onnx file that `model` means: a path that exists, or the name of a golden graph.

    A golden graph stored packed or without weights is written into `cache` (created if absent) on
    first use, under a name that carries the digest of its sources. Raises InputError for anything else, or if
    `cache` cannot be written.
    """
    path = Path(model)
    if path.is_file():
        if path.suffix.lower() in _PICTURES:
            raise InputError(f"{model}: is a picture, not a model; give an .onnx file here, and pictures to infer or --images")
        _refuse_output(path)
        return path
    if path.is_dir() and is_build(path):
        raise InputError(f"{model}: is a build, not a model; {_built_from(path)}")
    if path.suffix == ".onnx" or path.parent != Path():
        raise InputError(f"{model}: {'is a folder; give an .onnx file' if path.is_dir() else 'no such file'}")
    home = folder(model)
    variant = model.partition("@")[2]
    return materialise(home, f"model_{variant}.onnx" if variant else "model.onnx", cache)


def _refuse_output(path: Path) -> None:
    """Raises InputError for a compiled graph, which cannot be compiled again."""
    if path.suffix == ".onnx" and path.parent != Path(path.anchor) and is_build(path.parent):
        manifest = Manifest.read(path.parent)
        if path.name in (manifest.model, manifest.runnable):
            raise InputError(f"{path}: is what a build made, not a model that detectron2 exported; {_built_from(path.parent)}")


def _built_from(folder: Path) -> str:
    return f"it was built from {Manifest.read(folder).source.model}: give that to build it anew"


def materialise(home: Path, file: str, cache: Path) -> Path:
    """The complete form of `file` in the folder `home` of a golden graph; see `resolve`."""
    plain, recipe = home / file, home / "weights.json"
    seeded = recipe.is_file()
    if plain.is_file() and not seeded:
        return plain
    structure = plain if plain.is_file() else home / f"{file}{PACKED}"
    digest = hashlib.sha256(structure.read_bytes() + (recipe.read_bytes() if seeded else b"")).hexdigest()[:16]
    name = plain.stem.replace("model", home.name, 1)
    complete = cache / f"{name}-{digest}.onnx"
    if not complete.is_file():
        if seeded:
            write_seeded(structure, read_json(recipe), complete)
        else:
            write_atomically(complete, lzma.decompress(structure.read_bytes()))
    return complete
