"""A model of more bytes than one message of protobuf may have is written with its weights beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxgraft
from onnxgraft import Options
from onnxgraft.deploy.build import Packed, copy_network
from onnxgraft.golden import catalog
from onnxgraft.ir import writing
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.writing import data_beside


def test_a_build_is_proved_and_packed_with_its_weights_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = catalog.resolve("rpn_FPN_thin", tmp_path / "cache")
    monkeypatch.setattr(writing, "ONE_FILE", writing.CHUNK + 200_000)  # the bytes of a real one would take minutes
    build = onnxgraft.compile(model, tmp_path / "out", Options(target="onnxruntime", size=(256, 320)))
    assert build.proof is not None
    assert build.proof.whole, str(build.proof)
    assert {"model.onnx", "model.onnx.data"} <= set(build.manifest.sha256)
    assert build.manifest.sizes["model.onnx"] < build.manifest.sizes["model.onnx.data"]
    copy_network(Packed.of(tmp_path / "out", None, wants_engine=False), tmp_path / "model.onnx")
    assert data_beside(tmp_path / "model.onnx").read_bytes() == (tmp_path / "out" / "model.onnx.data").read_bytes()


def test_it_is_the_same_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph.load(catalog.resolve("rpn_FPN_thin", tmp_path / "cache"))
    graph.save(tmp_path / "one.onnx")
    monkeypatch.setattr(writing, "ONE_FILE", writing.CHUNK)
    graph.save(tmp_path / "two.onnx")
    Graph.load(tmp_path / "two.onnx").save(tmp_path / "again.onnx")
    assert (tmp_path / "two.onnx").read_bytes() != (tmp_path / "again.onnx").read_bytes()  # each names its own weights
    assert data_beside(tmp_path / "two.onnx").read_bytes() == data_beside(tmp_path / "again.onnx").read_bytes()
    monkeypatch.undo()
    Graph.load(tmp_path / "two.onnx").save(tmp_path / "joined.onnx")
    assert (tmp_path / "joined.onnx").read_bytes() == (tmp_path / "one.onnx").read_bytes()
