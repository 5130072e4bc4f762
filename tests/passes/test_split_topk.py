"""split-topk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.graphs import parse_graph, run_graph
from helpers.stages import Stages

from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import fingerprint as fingerprint_of
from onnxgraft.passes import SplitTopk
from onnxgraft.pipeline.context import Context

TOPK = """
<ir_version: 8, opset_import: ["" : 19]>
g (float[2,50] x) => (float[2,23] best, int64[2,23] index)
<int64[1] k = {23}> {
    best, index = TopK<axis=ATTR, largest=LARGEST>(x, k)
}
"""


def topk(axis: int = -1, largest: int = 1) -> Graph:
    return parse_graph(TOPK.replace("ATTR", str(axis)).replace("LARGEST", str(largest)))


@pytest.mark.parametrize("limit", [8, 22, 12])
def test_stages_find_what_one_topk_finds_ties_included(limit: int, tmp_path: Path) -> None:
    graph, ctx = topk(axis=1), Context()
    feeds = {"x": np.random.default_rng(limit).integers(0, 9, (2, 50)).astype(np.float32)}
    expected = run_graph(graph, feeds, tmp_path)
    SplitTopk(limit=limit).run(graph, ctx)
    assert [int(node.inputs[1].values[0]) for node in graph.nodes if node.op == "TopK"] == [
        *[limit] * (23 // limit), 23 % limit,
    ]  # fmt: skip
    for a, b in zip(expected, run_graph(graph, feeds, tmp_path), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ctx.statistics == {"split": 1}


def test_a_second_run_and_a_small_topk_change_nothing() -> None:
    graph = topk()
    before = fingerprint_of(graph)
    SplitTopk(limit=23).run(graph, Context())
    assert fingerprint_of(graph) == before
    SplitTopk(limit=20).run(graph, Context())
    after = fingerprint_of(graph)
    assert after != before
    SplitTopk(limit=20).run(graph, Context())
    assert fingerprint_of(graph) == after


@pytest.mark.parametrize(
    ("axis", "largest", "reason"),
    [(0, 1, "searches axis 0 of [2, 23]; only the last can be split"),
     (1, 0, "only the largest, in order, can be found in stages")],
)  # fmt: skip
def test_what_cannot_be_split_is_refused(axis: int, largest: int, reason: str) -> None:
    graph = topk(axis, largest)
    node = graph.nodes[0].name
    with pytest.raises(Refusal) as refused:
        SplitTopk(limit=10).run(graph, Context())
    assert reason in str(refused.value)
    assert node in str(refused.value)


def test_a_pyramids_thousand_a_level_are_left_alone(stages: Stages) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    before = fingerprint_of(graph)
    SplitTopk().run(graph, ctx)
    assert fingerprint_of(graph) == before
