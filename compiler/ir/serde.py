"""Reading ONNX files without holding their weights in memory; `writing` writes them.

A weight is at most a place in a file: (path, offset, length). Reading walks the protobuf wire format once, keeps every
initializer's header and leaves its bytes where they are. ONNX's own notation for this is external data, so a skeleton is an
ordinary ModelProto whose large initializers are EXTERNAL.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from onnxgraft.errors import InputError, os_reason
from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.wellformed import expected_bytes, refuse_malformed
from onnxgraft.ir.wire import GRAPH_INITIALIZER, MODEL_GRAPH, TENSOR_RAW_DATA, fields

INLINE_BYTES = 1024  # smaller initializers hold shapes and thresholds: the analysis wants to see them
CHUNK = 1 << 22


@dataclass(frozen=True)
class Weight:
    """Where the bytes of one large initializer stand."""

    path: Path
    offset: int
    length: int

    def map(self) -> np.ndarray:
        """The bytes as a read-only uint8 array that the operating system pages in on demand."""
        if self.length == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(self.path, np.uint8, "r", self.offset, (self.length,))

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in pieces read from the file. Raises InputError when the file has fewer."""
        with open(self.path, "rb") as source:
            source.seek(self.offset)
            left = self.length
            while left:
                chunk = source.read(min(CHUNK, left))
                if not chunk:
                    raise InputError(f"{self.path}: shrank while it was read")
                yield chunk
                left -= len(chunk)


@dataclass(frozen=True)
class Skeleton:
    """A model whose large initializers are EXTERNAL, and the places of their bytes by initializer name."""

    model: onnx.ModelProto
    weights: dict[str, Weight]


def _tensor(buffer: mmap.mmap, start: int, end: int, path: Path) -> tuple[onnx.TensorProto, Weight | None]:
    """An initializer; one with many raw bytes comes back as header and place."""
    if end - start > INLINE_BYTES:
        for number, field_start, value_start, field_end in fields(buffer, start, end):
            if number == TENSOR_RAW_DATA and field_end - value_start > INLINE_BYTES:
                header = buffer[start:field_start] + buffer[field_end:end]
                weight = Weight(path, value_start, field_end - value_start)
                return onnx.TensorProto.FromString(header), weight
    return onnx.TensorProto.FromString(buffer[start:end]), None


def mark_external(tensor: onnx.TensorProto, weight: Weight) -> None:
    """Write the place of the bytes into the tensor, as ONNX external data."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (
        ("location", weight.path.name.encode(errors="replace").decode()),  # a name that is no text is told in `weights` alone
        ("offset", str(weight.offset)),
        ("length", str(weight.length)),
    ):
        tensor.external_data.add(key=key, value=value)


def _resolve_external(tensor: onnx.TensorProto, model_path: Path) -> Weight:
    """The place that an initializer's external data names; refuses missing files and paths outside the folder."""
    folder = model_path.parent.resolve()
    where = f"{model_path}: tensor {tensor.name!r} keeps its data in "
    try:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        where += repr(location)[:100]
        target = (folder / location).resolve()
        target.is_file()
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # too long, a loop of links, a zero byte, no text
        raise InputError(f"{where}, which is no usable path: {_why(error)}") from None
    if not location or Path(location).is_absolute() or folder not in target.parents:
        raise InputError(f"{where}, outside the model's folder: refused; move the file beside the model")
    if not target.is_file():
        raise InputError(f"{where}, which does not exist: copy it beside the model")
    size = target.stat().st_size
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or size - offset)
    except ValueError:
        raise InputError(f"{where} at an offset or length that is no number") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise InputError(f"{where} up to byte {offset + length}, but that file has {size} bytes: truncated?")
    wanted = expected_bytes(tensor)
    if wanted is not None and wanted != length:
        raise InputError(f"{where}: {length} bytes, but its shape needs {wanted}")
    return Weight(target, offset, length)


def _why(error: Exception) -> str:
    return os_reason(error) if isinstance(error, OSError) else str(error).splitlines()[0][:100]


def read_skeleton(path: str | Path, bounds: Bounds | None = None) -> Skeleton:
    """Parse an ONNX file, leaving large initializers on disk; `bounds` are what it may hold, the usual ones without.

    Raises:
        InputError: no such file, not ONNX, truncated, a part that contradicts itself or has a type that is not supported,
            or external data that is missing or outside the folder.
        Refusal: more nodes or levels of subgraphs than are allowed.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give an .onnx file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        try:
            model, weights = _parse(buffer, path)
        except (ValueError, IndexError) as error:
            if "truncated" in str(error) or isinstance(error, IndexError):
                what = f"truncated or not ONNX: a field reaches past the file's {len(buffer)} bytes"
                raise InputError(f"{path}: {what}") from None
            raise InputError(f"{path}: not an ONNX file ({error})") from None
        except DecodeError:
            raise InputError(f"{path}: not an ONNX file (protobuf cannot decode it)") from None
    if not model.graph.node or not model.opset_import:
        raise InputError(f"{path}: not an ONNX model (no nodes or no opset)")
    refuse_malformed(model, str(path), bounds or Bounds())
    return Skeleton(model, weights)


def _parse(buffer: mmap.mmap, path: Path) -> tuple[onnx.ModelProto, dict[str, Weight]]:
    rest, graph_rest = bytearray(), bytearray()
    tensors: list[onnx.TensorProto] = []
    weights: dict[str, Weight] = {}
    for number, start, value_start, end in fields(buffer, 0, len(buffer)):
        if number != MODEL_GRAPH:
            rest += buffer[start:end]
            continue
        for inner, inner_start, inner_value, inner_end in fields(buffer, value_start, end):
            if inner != GRAPH_INITIALIZER:
                graph_rest += buffer[inner_start:inner_end]
                continue
            tensor, weight = _tensor(buffer, inner_value, inner_end, path)
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                weight = _resolve_external(tensor, path)
            if weight is not None:
                wanted = expected_bytes(tensor)
                if wanted is not None and wanted != weight.length:
                    raise InputError(
                        f"{path}: initializer {tensor.name!r} has {weight.length} bytes, its shape needs {wanted}"
                    )
                mark_external(tensor, weight)
                weights[tensor.name] = weight
            tensors.append(tensor)
    model = onnx.ModelProto.FromString(bytes(rest))
    model.graph.ParseFromString(bytes(graph_rest))
    for tensor in _held_tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _take_in(tensor, _resolve_external(tensor, path))
    model.graph.initializer.extend(tensors)
    return model, weights


def _held_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The tensors in attributes of nodes, and those of the graphs that nodes hold, at any depth."""
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for held in (attribute.g, *attribute.graphs):
                yield from held.initializer
                yield from _held_tensors(held)


def _take_in(tensor: onnx.TensorProto, weight: Weight) -> None:
    """Replace the place of the bytes by the bytes: what stands outside the main graph's initializers is small."""
    with open(weight.path, "rb") as file:
        file.seek(weight.offset)
        tensor.raw_data = file.read(weight.length)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
