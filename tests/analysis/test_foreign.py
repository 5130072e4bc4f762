"""Files that went through other tools are refused with what to give instead."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.analysis.foreign import refuse_foreign
from onnxgraft.errors import PassError, Refusal
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions, Size
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.manager import PassManager


def refused(graph: Graph) -> str:
    with pytest.raises(PassError) as caught:
        PassManager(default_pipeline(CompileOptions(size=Size(256, 320)), "onnxruntime").passes, []).run(graph)
    return str(caught.value)


@pytest.fixture
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return Graph.load(catalog.resolve("fast_rcnn_thin", tmp_path_factory.mktemp("golden")))


@pytest.mark.parametrize(
    ("op", "domain", "words"),
    [
        ("GenerateProposals", "org.pytorch._caffe2", "is an operator of Caffe2, .*: export by tracing"),
        ("AliasWithName", "", "is an operator of Caffe2"),
        ("ATen", "org.pytorch.aten", "was exported as an ATen operator, .*: export at a newer opset"),
        ("FusedConv", "com.microsoft", "of ONNX Runtime's own, .*: give the export itself, or save it with ORT_ENABLE_BASIC"),
        ("Conv", "com.microsoft.nchwc", "of ONNX Runtime's own"),
        ("roi_align_rotated_forward", "detectron2", "is of rotated boxes .*: TensorRT has neither their suppression"),
        ("RoIAlignRotated", "org.pytorch._caffe2", "is of rotated boxes"),
        ("SwapAlign2Nat", "custom", "is TensorMask's, which predicts each object's mask in a window of every cell"),
        ("EfficientNMS_TRT", "", "is a plugin of TensorRT already: .*; give the export that went into it"),
    ],
)  # fmt: skip
def test_operators_of_other_tools(graph: Graph, op: str, domain: str, words: str) -> None:
    node = next(n for n in graph.nodes if n.op == "Conv")
    node.op, node.domain = op, domain or None
    with pytest.raises(Refusal, match=words) as caught:
        refuse_foreign(graph)
    assert caught.value.node == node.name
    assert f"(node {node.name!r})" in refused(graph)


def test_a_file_in_float16(graph: Graph) -> None:
    """As onnxconverter-common writes it: half weights, and casts behind the input."""
    node = next(n for n in graph.nodes if n.op == "Conv")
    node.inputs[1] = gs.Constant("half", np.asarray(node.inputs[1].values).astype(np.float16))
    assert "computes in float16: the file was converted; give the float32 export" in refused(graph)


def test_an_export_is_not_refused(graph: Graph) -> None:
    refuse_foreign(graph)
