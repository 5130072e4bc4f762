"""Outputs that no detector of detectron2 has: refused, or left as they are when the user says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.cli import assert_one_line_error, cli
from helpers.stages import SIZE, Stages, detect

from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.comparison import match


@pytest.fixture(scope="module")
def with_embedding(golden_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden detector with one more output, of rank 5: the mean of a feature map over the image."""
    model = onnx.load(golden_model)
    (conv,) = [n for n in model.graph.node if n.op_type == "Conv"][:1]
    model.graph.node.append(onnx.helper.make_node("GlobalAveragePool", [conv.output[0]], ["pooled_features"]))
    model.graph.node.append(onnx.helper.make_node("Flatten", ["pooled_features"], ["flat_features"]))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["flat_features", "five"], ["embedding"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 1, 1, -1]), "five"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, None))
    path = tmp_path_factory.mktemp("unknown") / "model.onnx"
    onnx.save(model, path)
    return path


def test_they_are_refused_by_name_with_the_way_out(with_embedding: Path, tmp_path: Path) -> None:
    refused = cli("build", with_embedding, "--size", "256x320", "--target", "onnxruntime", "-o", tmp_path / "out")
    assert_one_line_error(refused, "output 'embedding'", "is none that a detectron2 detector has", "--allow-unknown-outputs")


def test_they_stay_as_they_are(with_embedding: Path, stages: Stages, scene: np.ndarray, tmp_path: Path) -> None:
    answers = []
    for allow in (False, True):
        options = CompileOptions(size=SIZE, allow_unknown_outputs=allow)
        source = with_embedding if allow else stages.folder / "input.onnx"
        graph, ctx = Graph.load(source), Context()
        PassManager(default_pipeline(options, "onnxruntime").passes).run(graph, ctx)
        answers.append(detect(graph, ctx, scene, tmp_path))
    assert [t.name for t in graph.gs.outputs][-1] == "embedding"
    assert ctx.notes[-1].startswith("output 'embedding'")
    report = match(*answers, 0.99, 1e-3, 0.01)
    assert report.exact
    assert report.reference > 0


OTHER_FORMS = {
    "boxes rounded to integers": ((2, 1), ["Cast"], (6, ["n", 4])),
    "boxes, scores and classes in one table": ((2, 1), ["Concat", "Slice"], (1, ["n", 6])),
}


@pytest.mark.parametrize("words", OTHER_FORMS)
def test_other_forms_are_named_with_what_to_give(words: str, golden_model: Path, tmp_path: Path) -> None:
    (rank, dtype), ops, (kind, shape) = OTHER_FORMS[words]
    model = onnx.load(golden_model)
    output = next(o for o in model.graph.output if len(o.type.tensor_type.shape.dim) == rank
                  and o.type.tensor_type.elem_type == dtype and o.type.tensor_type.shape.dim[0].dim_value != 2)  # fmt: skip
    last = output.name
    more = {"Cast": [], "Concat": [last], "Slice": ["axis 0", "to", "axis 1"]}
    attrs = {"Cast": {"to": kind}, "Concat": {"axis": 1}}
    for op in ops:
        node = onnx.helper.make_node(op, [last, *more[op]], [f"by {op}"], name=f"the-{op}", **attrs.get(op, {}))
        model.graph.node.append(node)
        last = node.output[0]
    for name, number in (("axis 0", 0), ("axis 1", 1), ("to", 6)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([number]), name))
    output.CopyFrom(onnx.helper.make_tensor_value_info(last, kind, shape))
    onnx.save(model, tmp_path / "model.onnx")
    refused = cli("build", tmp_path / "model.onnx", "--size", "256x320", "--target", "onnxruntime", "-o", tmp_path / "out")
    assert_one_line_error(refused, "is none that a detectron2 detector has", words, f"the-{ops[-1]}")
