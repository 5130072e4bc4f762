"""A network that mixes the pictures of a batch is built for one picture alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.errors import PassError
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions, Size
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager


def build(folder: Path, axis: int, batch: int) -> None:
    """Semantic FPN whose first Relu is followed by a softmax along an axis, up to the recognition."""
    graph = Graph.load(catalog.resolve("semantic_fpn_thin", folder))
    relu = next(node for node in graph.nodes if node.op == "Relu")
    old = relu.outputs[0]
    readers = list(old.outputs)
    new = gs.Variable("softened", np.float32, old.shape)
    graph.gs.nodes.insert(graph.gs.nodes.index(relu) + 1, gs.Node("Softmax", "soften", {"axis": axis}, [old], [new]))
    graph.redirect(readers, old, new)
    steps = default_pipeline(CompileOptions(size=Size(256, 320), batch=batch), "onnxruntime").passes[:4]
    PassManager(steps, fingerprints=False).run(graph, Context())


def test_along_the_batch_is_refused_with_the_node(tmp_path: Path) -> None:
    with pytest.raises(PassError, match=r"this Softmax works across the pictures of a batch.*--batch 1 \(node 'soften'\)"):
        build(tmp_path, 0, batch=2)


@pytest.mark.parametrize(("axis", "batch"), [(0, 1), (1, 2)])
def test_of_one_picture_or_along_channels_it_is_kept(axis: int, batch: int, tmp_path: Path) -> None:
    build(tmp_path, axis, batch)
