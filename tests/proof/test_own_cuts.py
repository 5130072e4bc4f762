"""A pass of one's own that says which part it rewrites is held to it by every build, with or without a detector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.errors import PassError
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass, Region
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.proof.witness import Witness

MODEL = """<ir_version: 10, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 4] z) <float c = {4.0}> { y = Div(x, c) z = Relu(y) }"""


@dataclass(frozen=True, kw_only=True)
class Reciprocal(Pass):
    """Multiplies where the graph divides, by what is right or by something near it."""

    factor: float = 1.0
    declared: bool = True

    def run(self, graph: Graph, ctx: Context) -> None:
        node = next(n for n in graph.nodes if n.op == "Div")
        node.op, node.inputs = "Mul", [node.inputs[0], gs.Constant("factor", np.array(0.25 * self.factor, np.float32))]

    def cut(self, graph: Graph, ctx: Context) -> Region | None:
        return Region(("x",), ("y",)) if self.declared else None


@dataclass(frozen=True, kw_only=True)
class Lost(Reciprocal):
    """Declares a tensor that is not there."""

    def cut(self, graph: Graph, ctx: Context) -> Region | None:
        return Region(("x",), ("nothing",))


def witness_of(step: Pass, folder: Path) -> Witness:
    onnx.save(onnx.parser.parse_model(MODEL), folder / "model.onnx")
    witness = Witness()
    PassManager([step], [witness]).run(Graph.load(folder / "model.onnx"), Context())
    return witness


def test_a_part_that_stays_the_same_counts_its_probes(tmp_path: Path) -> None:
    assert witness_of(Reciprocal(), tmp_path).cuts == 4


def test_a_part_that_differs_stops_the_build_with_pass_tensor_and_row(tmp_path: Path) -> None:
    words = r"^pass 'reciprocal': its own part up to 'y', probe 0: row \d+ at \(\d\): .* in the file"
    with pytest.raises(PassError, match=words):
        witness_of(Reciprocal(factor=1.01), tmp_path)


def test_a_part_that_is_not_declared_is_not_held(tmp_path: Path) -> None:
    assert witness_of(Reciprocal(factor=1.01, declared=False), tmp_path).cuts == 0


def test_a_part_that_cannot_be_cut_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassError, match=r"^pass 'lost': it declares a part that cannot be cut out: .*no tensor 'nothing'"):
        witness_of(Lost(), tmp_path)
