"""The pattern helper: what fires, and the exact reason where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import pytest

from onnxgraft import Builder, Context, Graph, PassManager
from onnxgraft.instruments import Promises, Verify
from onnxgraft.ir.pattern import Const, Match, Op, Reject, Var
from onnxgraft.ir.serde import Skeleton
from onnxgraft.ir.value import Value, constant
from onnxgraft.passes.default import known_passes
from onnxgraft.pipeline.docs import describe, markdown
from onnxgraft.pipeline.rewrite import Rewrite

X = Var("x")


@dataclass(frozen=True, kw_only=True)
class FoldScale(Rewrite):
    """Multiply once where two constants multiply one after the other."""

    pattern: ClassVar[Op] = Op("Mul", Op("Mul", X, Const("a"), name="first"), Const("b"))
    largest: float = 100.0

    def check(self, match: Match) -> Reject | None:
        product = np.abs(match.value("a") * match.value("b")).max()
        if product > self.largest:
            return match.reject(f"the factor {product:g} is above {self.largest:g}", match.named["first"])
        return None

    def rewrite(self, match: Match, builder: Builder) -> Value:
        return (builder.of(match["x"]) * constant("factor", match.value("a") * match.value("b"))).named("scaled")


def graph_of(body: str, outputs: str = "float[2] y", functions: str = "") -> Graph:
    head = '<ir_version: 10, opset_import: ["" : 17]>\ng (float[2] x) => (' + outputs + ")"
    return Graph.from_skeleton(Skeleton(onnx.parser.parse_model(head + body + functions), {}))


def run(graph: Graph, ctx: Context | None = None) -> list[str]:
    PassManager([FoldScale()], [Promises(), Verify()]).run(graph, ctx)
    return [node.op for node in graph.nodes]


TWICE = " <float[1] two = {2.0}, float[1] ten = {10.0}, float[1] much = {99.0}> "


@pytest.mark.parametrize("order", ["two, x", "x, two"])
def test_fires_in_either_order(order: str) -> None:
    graph = graph_of(TWICE + "{ a = Mul(" + order + ") y = Mul(ten, a) }")
    before = graph.skeleton().model
    assert run(graph) == ["Mul"]
    x = np.array([0.5, -3.0], np.float32)
    results = [onnx.reference.ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (before, graph.skeleton().model)]
    np.testing.assert_array_equal(results[0], results[1])
    assert graph.origins[graph.nodes[0].name].sources == ("Mul_1", "Mul_0")
    assert graph.gs.outputs[0].name == "y"
    assert run(graph) == ["Mul"]


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        ("{ a = Neg(x) y = Mul(a, ten) }", "float[2] y", "is Neg, not Mul (node 'Neg_0')"),
        ("{ a = Mul(x, x) y = Mul(a, ten) }", "float[2] y", "'a' is no constant but 'x' (node 'Mul_0')"),
        ("{ a = Mul(x, much) y = Mul(a, ten) }", "float[2] y", "the factor 990 is above 100 (node 'Mul_0')"),
        ("{ a = Mul(x, two) y = Mul(a, ten) z = Neg(a) }", "float[2] y, float[2] z",
         "its value is also read by 'Neg_2' (node 'Mul_0')"),
        ("{ a = Mul(x, two) y = Mul(a, ten) }", "float[2] y, float[2] a",
         "its value is an output of the graph (node 'Mul_0')"),
    ],
)  # fmt: skip
def test_closest_miss_names_reason_and_node(body: str, outputs: str, reason: str) -> None:
    ctx = Context()
    graph = graph_of(TWICE + body, outputs)
    count = len(graph.nodes)
    assert len(run(graph, ctx)) == count
    assert ctx.notes == [f"fold-scale matched nothing; closest miss: {reason}"]


def test_no_note_where_nothing_came_close() -> None:
    ctx = Context()
    run(graph_of("{ y = Neg(x) }"), ctx)
    assert ctx.notes == []


def test_documentation_comes_from_the_class() -> None:
    doc = describe(FoldScale)
    assert (doc.name, doc.summary) == ("fold-scale", "Multiply once where two constants multiply one after the other.")
    assert [(o.name, o.type, o.default) for o in doc.options] == [("largest", "float", "100.0")]
    assert doc.example == "fold-scale{largest=100.0}"
    assert "## fold-scale" in markdown([doc])


def test_every_built_in_pass_documents_itself() -> None:
    for kind in known_passes():
        doc = describe(kind)
        assert doc.summary.endswith("."), doc.name
        assert doc.text, f"{doc.name} does not say when it is legal"
