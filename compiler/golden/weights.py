"""Seeded weights of golden graphs, written chunk by chunk into a graph that has none."""

from __future__ import annotations

import lzma
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx

from onnxgraft.files import write_atomically
from onnxgraft.ir import wire

PACKED = ".xz"

CHUNK = 1 << 20  # weights made at a time; even, because one Philox draw gives two of them

def weights(seed: int, stream: int, count: int, scale: float) -> Iterator[np.ndarray]:
    """Weights drawn from a seed, uniform in [-scale, scale), the same on every machine.

    Weight k is `scale * (u / 2**23 - 1)`, where u are the upper 24 bits of the k-th 32-bit word of Philox4x64-10
    with key (seed, stream); the only rounding is that of the float32 product.

    Args:
        seed, stream: 64-bit numbers; each tensor of a model has a stream of its own.
        count: how many weights.
        scale: the bound of their magnitude.

    Yields:
        float32 [n], n at most CHUNK; `count` in all.
    """
    bits = np.random.Philox(key=np.array([seed, stream], np.uint64))
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        words = bits.random_raw((size + 1) // 2).astype("<u8").view("<u4")[:size]
        fraction = (words >> 8).astype(np.float32) * np.float32(2**-23) - np.float32(1)
        yield fraction * np.float32(scale)


def write_seeded(structure: Path, recipe: Mapping[str, Any], target: Path) -> None:
    """Write a model whose weights follow from a seed, atomically, one chunk of weights at a time.

    Args:
        structure: the .onnx file without weights, or packed (.onnx.xz).
        recipe: what weights.json holds: "seed", and "tensors" with {"names": {file: initializer}, "scale", "stream"}.
        target: the file that is written.

    Raises:
        InputError: it cannot be written.
    """
    packed = structure.suffix == PACKED
    model = onnx.load_from_string(lzma.decompress(structure.read_bytes()) if packed else structure.read_bytes())
    file_name = structure.name.removesuffix(PACKED)
    streams = {
        tensor["names"][file_name]: (tensor.get("stream", place), tensor["scale"])
        for place, tensor in enumerate(recipe["tensors"])
        if file_name in tensor["names"]
    }
    initializers = [(tensor, tensor.SerializeToString()) for tensor in model.graph.initializer]
    graph, rest = onnx.GraphProto(), onnx.ModelProto()
    graph.CopyFrom(model.graph)
    del graph.initializer[:]
    rest.CopyFrom(model)
    rest.ClearField("graph")
    head = graph.SerializeToString()
    sizes = [
        len(header) + (wire.size(wire.TENSOR_RAW_DATA, _byte_count(tensor)) if tensor.name in streams else 0)
        for tensor, header in initializers
    ]
    total = len(head) + sum(wire.size(wire.GRAPH_INITIALIZER, size) for size in sizes)

    def write(file: BinaryIO) -> None:
        file.write(rest.SerializeToString())
        file.write(wire.opening(wire.MODEL_GRAPH, total) + head)
        for (tensor, header), size in zip(initializers, sizes, strict=True):
            file.write(wire.opening(wire.GRAPH_INITIALIZER, size) + header)
            if tensor.name in streams:
                stream, scale = streams[tensor.name]
                length = _byte_count(tensor)
                file.write(wire.opening(wire.TENSOR_RAW_DATA, length))
                for chunk in weights(recipe["seed"], stream, length // 4, scale):
                    file.write(chunk.astype("<f4", copy=False).tobytes())

    write_atomically(target, write)


def _byte_count(tensor: onnx.TensorProto) -> int:
    return 4 * int(np.prod(tensor.dims, dtype=np.int64))
