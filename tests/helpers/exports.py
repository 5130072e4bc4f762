"""Structures of real detectron2 exports without their weights, as files that can be loaded.

Recognition needs no weights. The stored graphs keep every node and every small constant; large initializers come back
as zeros, all of them read from one sparse file through ONNX's external data.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx

STORED = Path(__file__).parents[1] / "data" / "exports"
NUMBERS = json.loads((STORED / "expected.json").read_text())
NAMES = sorted(NUMBERS["variants"])


def expected(name: str) -> dict[str, Any]:
    return {**NUMBERS["base"], **NUMBERS["variants"][name]}


def structure(name: str) -> onnx.ModelProto:
    """The stored model; large initializers have no data."""
    return onnx.ModelProto.FromString(gzip.decompress((STORED / f"{name}.onnx.gz").read_bytes()))


def write(model: onnx.ModelProto, path: Path) -> Path:
    """Write a structure with zeros for its weights. Tests may change the model before."""
    largest = 0
    for tensor in model.graph.initializer:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        size = int(np.prod(tensor.dims)) * np.dtype(dtype).itemsize
        held = tensor.raw_data or tensor.float_data or tensor.int64_data or tensor.int32_data or tensor.double_data
        if held or size < 1024:
            continue
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "zeros.bin"), ("offset", "0"), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        largest = max(largest, size)
    zeros = path.parent / "zeros.bin"
    if largest and (not zeros.exists() or zeros.stat().st_size < largest):
        with open(zeros, "ab") as file:
            file.truncate(largest)
    path.write_bytes(model.SerializeToString())
    return path


def rename(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every node and tensor under a new name that says nothing, inputs and outputs too. Changes the model in place."""
    names: dict[str, str] = {"": ""}
    count = 0

    def new(name: str) -> str:
        return names.setdefault(name, f"t{len(names)}")

    def walk(graph: onnx.GraphProto) -> None:
        nonlocal count
        graph.name = "g"
        del graph.value_info[:]
        for values in (graph.input, graph.output, graph.initializer):
            for value in values:
                value.name = new(value.name)
        for node in graph.node:
            count += 1
            node.name = f"n{count}"
            node.input[:] = [new(name) for name in node.input]
            node.output[:] = [new(name) for name in node.output]
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g)

    walk(model.graph)
    return model
