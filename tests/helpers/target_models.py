"""Small networks for the targets, and which targets this machine has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxgraft import targets
from onnxgraft.targets.trt import dialect

RTX = targets.get("tensorrt-rtx")
needs_rtx = pytest.mark.skipif(RTX.available() is not None, reason=str(RTX.available()))
needs_tensorrt = pytest.mark.skipif(
    targets.get("tensorrt").available() is not None,
    reason=str(targets.get("tensorrt").available()),
)

CONV_NET = """
    <ir_version: 9, opset_import: ["" : 17]>
    net (float[1,3,32,32] x) => (float[1,8,16,16] y)
    {
        a = Conv<pads = [1,1,1,1]>(x, w1)
        b = Relu(a)
        y = Conv<pads = [1,1,1,1], strides = [2,2]>(b, w2)
    }
"""
MIXED = """
    <ir_version: 9, opset_import: ["" : 19]>
    net (float[1,16,64,64] x) => (float[1,16,64,64] y)
    <float s = {0.1}, int8 z = {0}>
    {
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wq = QuantizeLinear(w1, s, z)
        wd = DequantizeLinear(wq, s, z)
        a = Conv<pads = [1,1,1,1]>(xd, wd)
        b = Relu(a)
        bh = Cast<to = 10>(b)
        wh = Cast<to = 10>(w2)
        c = Conv<pads = [1,1,1,1]>(bh, wh)
        y = Cast<to = 1>(c)
    }
"""
WEIGHTS = {CONV_NET: ((8, 3, 3, 3), (8, 8, 3, 3)), MIXED: ((16, 16, 3, 3), (16, 16, 3, 3))}


def write(path: Path, text: str, names: Callable[[int, str], str] = "{1}_{0}".format) -> Path:
    model = onnx.parser.parse_model(text)
    for index, node in enumerate(model.graph.node):
        node.name = names(index, node.op_type)
    random = np.random.default_rng(0)
    for name, shape in zip(("w1", "w2"), WEIGHTS.get(text, ()), strict=False):
        array = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


def installed(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    def missing(self: dialect.Dialect) -> str | None:
        return None if self.module in modules else f"no {self.module}"

    monkeypatch.setattr(dialect.Dialect, "missing", missing)
