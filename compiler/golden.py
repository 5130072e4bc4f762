"""Golden graphs: detectors that come with the source tree, found by name.

The trained ones are stored whole, some packed (.xz). Of the others only the structure is stored:
`weights.json` beside it says how the weights follow from a seed. `resolve` writes the complete
file once into a cache. The weights are made of raw Philox bits by exact float32 arithmetic, so the
file has the same bytes on every machine and NumPy version.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import lzma
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx

from .errors import InputError
from .runtime._files import write_atomically

ROOT = Path(__file__).resolve().parents[1] / "golden_graphs"
PACKED = ".xz"
CHUNK = 1 << 20  # weights made at a time; even, because one Philox draw gives two of them

# protobuf tags of length-delimited fields: field number << 3 | 2
GRAPH_IN_MODEL = b"\x3a"
INITIALIZER_IN_GRAPH = b"\x2a"
RAW_DATA_IN_TENSOR = b"\x4a"


def names() -> list[str]:
    """Every golden graph as `NAME` or `NAME@VARIANT`, e.g. `mask_rcnn` and `mask_rcnn@opset11`."""
    found = []
    for file in (*ROOT.glob("*/model*.onnx"), *ROOT.glob(f"*/model*.onnx{PACKED}")):
        variant = file.name.partition(".")[0].removeprefix("model").removeprefix("_")
        found.append(f"{file.parent.name}@{variant}" if variant else file.parent.name)
    return sorted(found)


def folder(name: str) -> Path:
    """The folder of a golden graph: `meta.json`, answers in `reference/scene_<i>.npz`.

    Raises InputError when there is no such golden graph.
    """
    if name not in names():
        known = ", ".join(names()) or f"none, as {ROOT} is not there"
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else f" (golden graphs: {known})"
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
        return path
    if path.suffix == ".onnx" or path.parent != Path():
        raise InputError(f"{model}: {'is a folder; give an .onnx file' if path.is_dir() else 'no such file'}")
    home = folder(model)
    variant = model.partition("@")[2]
    return materialise(home, f"model_{variant}.onnx" if variant else "model.onnx", cache)


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
        try:
            cache.mkdir(parents=True, exist_ok=True)
            if seeded:
                _write(structure, json.loads(recipe.read_text()), complete)
            else:
                write_atomically(complete, lzma.decompress(structure.read_bytes()))
        except OSError as error:
            raise InputError(f"cannot write {complete}: {error.strerror or error}") from error
    return complete


def weights(seed: int, stream: int, count: int, scale: float) -> Iterator[np.ndarray]:
    """`count` float32 weights, uniform in [-scale, scale), in chunks.

    Weight k is `scale * (u / 2**23 - 1)`, where u are the upper 24 bits of the k-th 32-bit word of
    Philox4x64-10
    with key (seed, stream); the only rounding is that of the float32 product.
    """
    bits = np.random.Philox(key=np.array([seed, stream], np.uint64))
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        words = bits.random_raw((size + 1) // 2).astype("<u8").view("<u4")[:size]
        fraction = (words >> 8).astype(np.float32) * np.float32(2**-23) - np.float32(1)
        yield fraction * np.float32(scale)


def _write(structure: Path, recipe: dict[str, Any], target: Path) -> None:
    """Write `structure` with its weights to `target`, atomically, one chunk at a time."""
    packed = structure.suffix == PACKED
    model = onnx.load_from_string(lzma.decompress(structure.read_bytes()) if packed else structure.read_bytes())
    file = structure.name.removesuffix(PACKED)
    streams = {
        tensor["names"][file]: (tensor.get("stream", place), tensor["scale"])
        for place, tensor in enumerate(recipe["tensors"])
        if file in tensor["names"]
    }
    initializers = [(tensor, tensor.SerializeToString()) for tensor in model.graph.initializer]
    graph, rest = onnx.GraphProto(), onnx.ModelProto()
    graph.CopyFrom(model.graph)
    del graph.initializer[:]
    rest.CopyFrom(model)
    rest.ClearField("graph")

    head = graph.SerializeToString()
    sizes = [
        len(header) + (_field_size(_byte_count(tensor)) if tensor.name in streams else 0)
        for tensor, header in initializers
    ]
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as part:
            part.write(rest.SerializeToString())
            _open_field(part, GRAPH_IN_MODEL, len(head) + sum(map(_field_size, sizes)))
            part.write(head)
            for (tensor, header), size in zip(initializers, sizes, strict=True):
                _open_field(part, INITIALIZER_IN_GRAPH, size)
                part.write(header)
                if tensor.name in streams:
                    stream, scale = streams[tensor.name]
                    length = _byte_count(tensor)
                    _open_field(part, RAW_DATA_IN_TENSOR, length)
                    for chunk in weights(recipe["seed"], stream, length // 4, scale):
                        part.write(chunk.astype("<f4", copy=False).tobytes())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _byte_count(tensor: onnx.TensorProto) -> int:
    return 4 * int(np.prod(tensor.dims, dtype=np.int64))


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _field_size(length: int) -> int:
    """Bytes of a field of `length` bytes with its one-byte tag and its length."""
    return 1 + len(_varint(length)) + length


def _open_field(file: BinaryIO, tag: bytes, length: int) -> None:
    file.write(tag + _varint(length))
