"""upgrade-opset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.graphs import parse_graph, run_graph
from helpers.stages import Stages, run_unordered

from onnxgraft.errors import PassError
from onnxgraft.ir.weights import is_large, weight_of
from onnxgraft.passes import UpgradeOpset
from onnxgraft.pipeline.context import Context

OPSET_11 = """
<ir_version: 7, opset_import: ["" : 11]>
g (float[2,1,3] x) => (float[2,3] y, float[2,3] shared) {
    squeezed = Squeeze<axes=[1]>(x)
    shared = Softmax<axis=1>(squeezed)
    y = Clip(squeezed)
}
"""


def test_fires_on_the_golden_export(stages: Stages) -> None:
    record = stages.report["upgrade-opset"]
    assert record.changed
    assert record.statistics == {"opsets": 3}
    assert stages.after_pass("upgrade-opset")[0].gs.opset == 19


def test_the_same_numbers_come_out(tmp_path: Path) -> None:
    graph = parse_graph(OPSET_11)
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 1, 3)}
    before = run_graph(graph, feeds, tmp_path)
    UpgradeOpset().run(graph, Context())
    assert graph.gs.opset == 19
    assert [node.op for node in graph.nodes].count("Squeeze") == 1
    for a, b in zip(before, run_graph(graph, feeds, tmp_path), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_stay_in_their_file(stages: Stages) -> None:
    graph, ctx = stages.after_pass("input")
    graph.gs.opset = 16
    places = {t.name: weight_of(t) for t in graph.gs.tensors().values() if is_large(t)}
    UpgradeOpset().run(graph, ctx)
    after = {t.name: weight_of(t) for t in graph.gs.tensors().values() if is_large(t)}
    assert len(places) > 70
    assert after == places


def test_second_run_changes_nothing(stages: Stages) -> None:
    assert not run_unordered([UpgradeOpset()], *stages.after_pass("upgrade-opset")).records[0].changed


def test_a_newer_graph_is_left_alone() -> None:
    graph = parse_graph(OPSET_11.replace('"" : 11', '"" : 21').replace("Squeeze<axes=[1]>(x)", "Relu(x)")
                        .replace("2,1,3", "2,3"))  # fmt: skip
    assert not run_unordered([UpgradeOpset()], graph, Context()).records[0].changed
    assert graph.gs.opset == 21


def test_an_operator_unknown_to_onnx_is_refused_by_node() -> None:
    graph = parse_graph(OPSET_11)
    graph.nodes[1].op, graph.nodes[1].name = "NoSuchOperator", "here"
    with pytest.raises(PassError) as refused:
        run_unordered([UpgradeOpset()], graph, Context())
    assert str(refused.value) == (
        "pass 'upgrade-opset': cannot convert opset 11 to 19: ONNX has no operator 'NoSuchOperator' (node 'here')"
    )
