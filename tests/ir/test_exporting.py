"""The exporter that remembers, beside onnx_graphsurgeon's own: the same model after every pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.golden import catalog
from onnxgraft.ir.exported_text import Text
from onnxgraft.ir.exporting import IR_VERSION, PLUGIN_DOMAIN
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import text
from onnxgraft.ir.serde import mark_external
from onnxgraft.ir.weights import MappedValues, weight_of
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.record import PassRecord


def exported_anew(graph: Graph) -> bytes:
    """What onnx_graphsurgeon exports, its large weights left in their file."""
    held = [t for t in graph.gs.tensors().values() if isinstance(t, gs.Constant) and weight_of(t) is not None]
    before = [t._values for t in held]
    for tensor in held:
        proto = onnx.TensorProto(name=tensor.name, dims=tensor.shape)
        proto.data_type = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
        mark_external(proto, weight_of(tensor))
        tensor._values = MappedValues(proto, weight_of(tensor))
    domains = [PLUGIN_DOMAIN] if graph.functions else []
    graph.gs.import_domains = [onnx.helper.make_opsetid(d, 1 if d else graph.gs.opset) for d in ["", *domains]]
    model = gs.export_onnx(graph.gs, do_type_check=False)
    for tensor, values in zip(held, before, strict=True):
        tensor._values = values
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "onnxgraft", ""
    model.functions.extend(graph.functions[name] for name in sorted(graph.functions))
    return model.SerializeToString(deterministic=True)


class Beside(Instrument):
    """Holds every stage against the export that remembers nothing."""

    stages = 0

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        mine = graph.observed(Graph.exported).skeleton()
        assert mine.model.SerializeToString(deterministic=True) == exported_anew(graph), record.name
        self.stages += 1
        return record


class Told(Instrument):
    """Holds the text of every stage's messages against that of the graph itself."""

    stages = 0

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        said = str(Text.of(graph))  # before `text`, which reads lazy values
        assert said == text(graph), record.name
        self.stages += 1
        return record


@pytest.mark.parametrize("kind", [Beside, Told])
@pytest.mark.parametrize(
    ("name", "target"), [("mask_rcnn", "onnxruntime"), ("mask_rcnn", "tensorrt-rtx"), ("fcos_thin", "tensorrt-rtx")]
)
def test_every_stage_is_what_graphsurgeon_exports(
    name: str, target: str, kind: type[Beside] | type[Told], tmp_path: Path
) -> None:
    beside, graph = kind(), Graph.load(catalog.resolve(name, tmp_path))
    steps = default_pipeline(CompileOptions(size=(256, 320)), target).passes
    PassManager(steps, [beside], fingerprints=False).run(graph, Context(held=True))
    assert beside.stages == len(steps)


def _attribute(node: gs.Node) -> None:
    node.attrs["alpha"] = -0.0


def _kind(node: gs.Node) -> None:
    node.attrs["alpha"] = 1


def _list(node: gs.Node) -> None:
    node.attrs["axes"].append(3)


def _name(node: gs.Node) -> None:
    node.inputs[0].name = "z"


def _shape(node: gs.Node) -> None:
    node.inputs[0].shape.append(2)


def _weight(node: gs.Node) -> None:
    node.inputs[1].values[0] = 5


@pytest.mark.parametrize("change", [_attribute, _kind, _list, _name, _shape, _weight])
def test_what_changes_in_place_is_exported_anew(change: Callable[[gs.Node], None]) -> None:
    x, y = gs.Variable("x", np.float32, [1, 4]), gs.Variable("y", np.float32, None)
    node = gs.Node("Op", "n", {"alpha": 0.0, "axes": [1, 2]}, [x, gs.Constant("w", np.ones(4, np.float32))], [y])
    graph = Graph(gs.Graph([node], [x], [y], opset=19))
    before = graph.skeleton().model.SerializeToString(deterministic=True)
    change(node)
    after = graph.skeleton().model.SerializeToString(deterministic=True)
    assert after != before
    assert after == exported_anew(graph)


def test_the_text_of_what_cannot_be_exported(tmp_path: Path) -> None:
    graph = Graph.load(catalog.resolve("mask_rcnn", tmp_path))
    graph.nodes[0].attrs["odd"] = object()
    with pytest.raises(TypeError, match="not an accepted attribute"):
        graph.exported()
    assert "odd=<object" in str(Text.of(graph))
