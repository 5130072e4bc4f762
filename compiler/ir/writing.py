"""Writing ONNX files whose weights are streamed from the files where they stand."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import BinaryIO

import onnx

from onnxgraft.files import write_atomically
from onnxgraft.ir import wire
from onnxgraft.ir.serde import CHUNK, Skeleton, Weight, mark_external
from onnxgraft.ir.wire import GRAPH_INITIALIZER, MODEL_GRAPH, TENSOR_RAW_DATA

ONE_FILE = (1 << 31) - 1  # bytes of a message that protobuf reads


def data_beside(path: Path) -> Path:
    """Where the weights of a model lie that is too large for one file."""
    return path.with_name(f"{path.name}.data")


def write_model(skeleton: Skeleton, path: str | Path) -> None:
    """Write a whole model: the skeleton's messages, and the weights' bytes streamed from where they stand.

    A model of more than ONE_FILE bytes has its weights in a file beside it, as ONNX external data.
    """
    path = Path(path)
    model = skeleton.model
    shell = onnx.ModelProto()
    shell.CopyFrom(_without_graph(model))
    headers: list[tuple[bytes, Weight]] = []
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    inline = [tensor for tensor in graph.initializer if tensor.name not in skeleton.weights]
    external = [tensor for tensor in graph.initializer if tensor.name in skeleton.weights]
    for tensor in external:
        header = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, name=tensor.name)
        headers.append((header.SerializeToString(deterministic=True), skeleton.weights[tensor.name]))
    inline_copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in inline]
    del graph.initializer[:]
    graph.initializer.extend(inline_copies)
    head = graph.SerializeToString(deterministic=True)
    parts = [
        (header, weight, len(header) + wire.size(TENSOR_RAW_DATA, weight.length)) for header, weight in headers
    ]
    total = len(head) + sum(wire.size(GRAPH_INITIALIZER, length) for _, _, length in parts)
    if total + shell.ByteSize() + CHUNK > ONE_FILE:
        _write_apart(skeleton, path)
        return

    def write(file: BinaryIO) -> None:
        file.write(shell.SerializeToString(deterministic=True))
        file.write(wire.opening(MODEL_GRAPH, total) + head)
        for header, weight, length in parts:
            file.write(wire.opening(GRAPH_INITIALIZER, length) + header)
            file.write(wire.opening(TENSOR_RAW_DATA, weight.length))
            _copy(weight, file)

    write_atomically(path, write)


def _write_apart(skeleton: Skeleton, path: Path) -> None:
    """The weights into a file beside the model, each at a page of its own, so that it can be mapped."""
    apart, end = data_beside(path), 0
    places: dict[str, Weight] = {}
    for name, weight in skeleton.weights.items():
        places[name] = Weight(apart, end, weight.length)
        end += -(-weight.length // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY

    def write(file: BinaryIO) -> None:
        for name, weight in skeleton.weights.items():
            file.write(bytes(places[name].offset - file.tell()))
            _copy(weight, file)

    write_atomically(apart, write)
    model = onnx.ModelProto()
    model.CopyFrom(skeleton.model)
    for tensor in model.graph.initializer:
        if tensor.name in places:
            mark_external(tensor, places[tensor.name])
    write_atomically(path, model.SerializeToString(deterministic=True))


def _without_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    shell = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    shell.producer_version = model.producer_version
    shell.opset_import.extend(model.opset_import)
    shell.metadata_props.extend(model.metadata_props)
    shell.functions.extend(model.functions)
    return shell


def _copy(weight: Weight, file: BinaryIO) -> None:
    for chunk in weight.chunks():
        file.write(chunk)
