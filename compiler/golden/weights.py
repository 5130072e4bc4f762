"""Seeded weights of golden graphs, written chunk by chunk into a graph that has none."""

from __future__ import annotations

import lzma
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx

PACKED = ".xz"

CHUNK = 1 << 20  # weights made at a time; even, because one Philox draw gives two of them

# protobuf tags of length-delimited fields: field number << 3 | 2
GRAPH_IN_MODEL = b"\x3a"

INITIALIZER_IN_GRAPH = b"\x2a"

RAW_DATA_IN_TENSOR = b"\x4a"


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
