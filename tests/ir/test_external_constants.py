"""Values of Constant nodes that lie in a file are read from the model's folder, wherever the program runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxgraft.ir.graph import Graph
from onnxgraft.targets import OrtRunner

MODEL = """<ir_version: 8, opset_import: ["" : 16]>
g (float[2] x, bool c) => (float[2] z) {
  y = Constant<value = float[2] {1.0, 2.0}>()
  a = Add(x, y)
  z = If(c)<then_branch = t () => (float[2] p) { q = Constant<value = float[2] {3.0, 4.0}>() p = Mul(a, q) },
            else_branch = e () => (float[2] r) { r = Neg(a) }>
}"""


def outside(tensor: onnx.TensorProto, folder: Path, name: str) -> None:
    """Put a tensor's bytes into a file of the folder."""
    array = onnx.numpy_helper.to_array(tensor)
    (folder / name).write_bytes(array.tobytes())
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)


def test_they_are_read_from_the_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    model = onnx.parser.parse_model(MODEL)
    outside(model.graph.node[0].attribute[0].t, folder, "first.bin")
    outside(model.graph.node[2].attribute[0].g.node[0].attribute[0].t, folder, "second.bin")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (elsewhere / "first.bin").write_bytes(np.array([9, 9], np.float32).tobytes())
    monkeypatch.chdir(elsewhere)
    graph = Graph.load(folder / "model.onnx")
    graph.save(tmp_path / "saved.onnx")
    run = OrtRunner(tmp_path / "saved.onnx")
    x = np.array([10, 20], np.float32)
    np.testing.assert_array_equal(run({"x": x, "c": np.array(True)})["z"], np.array([33, 88], np.float32))
    np.testing.assert_array_equal(run({"x": x, "c": np.array(False)})["z"], np.array([-11, -22], np.float32))
