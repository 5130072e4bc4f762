"""The pattern engine: what matches, in whatever order operands stand, and how far the closest attempt came."""

from __future__ import annotations

import onnx.parser
import pytest

from onnxgraft.ir.graph import Graph
from onnxgraft.ir.pattern import Const, Match, Op, Reject, Var, match
from onnxgraft.ir.serde import Skeleton

X, Y = Var("x"), Var("y")
SILU = Op("Mul", X, Op("Sigmoid", X))


def graph_of(body: str) -> Graph:
    head = '<ir_version: 10, opset_import: ["" : 17]>\ng (float[2] a, float[2] b, float[2] c) => (float[2] out)'
    return Graph.from_skeleton(Skeleton(onnx.parser.parse_model(head + body), {}))


def last(body: str, pattern: Op) -> Match | Reject:
    """What `match` says of the last node."""
    return match(pattern, graph_of(body).nodes[-1])


@pytest.mark.parametrize("product", ["a, b", "b, a"])
@pytest.mark.parametrize("order", ["p, a", "p, b", "a, p", "b, p"])
def test_a_variable_may_be_either_operand(product: str, order: str) -> None:
    """x * y + x, where which operand is x is known only at the sum."""
    found = last(f"{{ p = Mul({product}) out = Add({order}) }}", Op("Add", Op("Mul", X, Y), X))
    assert isinstance(found, Match)
    shared = order.replace("p", "").strip(", ")
    assert (found["x"].name, found["y"].name) == (shared, "b" if shared == "a" else "a")


def test_choices_are_taken_back_deep_inside() -> None:
    """(x y + z) + (x + z): the choice for the product shows to be wrong in the last operand only."""
    pattern = Op("Add", Op("Add", Op("Mul", X, Y), Var("z")), Op("Sub", X, Var("z")))
    for product in ("a, b", "b, a"):
        for inner in ("p, c", "c, p"):
            for outer in ("s, d", "d, s"):
                found = last(f"{{ p = Mul({product}) s = Add({inner}) d = Sub(b, c) out = Add({outer}) }}", pattern)
                assert isinstance(found, Match)
                assert [found[name].name for name in "xyz"] == ["b", "a", "c"]


def test_a_variable_is_one_tensor_everywhere() -> None:
    assert isinstance(last("{ s = Sigmoid(a) out = Mul(s, a) }", SILU), Match)
    found = last("{ n = Neg(a) s = Sigmoid(n) out = Mul(a, s) }", SILU)
    assert str(found) == "'x' would be both 'a' and 'n' (node 'Sigmoid_1')"
    found = last("{ p = Mul(a, b) out = Add(p, c) }", Op("Add", Op("Mul", X, Y), X))
    assert isinstance(found, Reject)
    assert str(found).startswith("'x' would be both")
    assert found.depth == 2


def test_order_counts_where_an_operator_does_not_commute() -> None:
    assert isinstance(last("{ n = Neg(a) out = Sub(n, a) }", Op("Sub", Op("Neg", X), X)), Match)
    found = last("{ n = Neg(a) out = Sub(a, n) }", Op("Sub", Op("Neg", X), X))
    assert str(found) == "reads 'a', an input of the graph, where Neg is wanted (node 'Sub_1')"


def test_attributes_are_part_of_a_pattern() -> None:
    found = last("{ s = LeakyRelu <alpha = 0.5> (a) out = Neg(s) }", Op("Neg", Op("LeakyRelu", X, alpha=0.25)))
    assert str(found) == "alpha is 0.5, not 0.25 (node 'LeakyRelu_0')"


def test_the_closest_attempt_is_told() -> None:
    """Of both orders, the one that met more nodes; the same tensor on both sides is no obstacle."""
    pattern = Op("Add", Op("Neg", Op("Abs", X)), Op("Neg", Op("Exp", X)))
    found = last("{ e = Exp(a) l = Neg(e) f = Abs(b) r = Neg(f) out = Add(l, r) }", pattern)
    assert isinstance(found, Reject)
    assert (found.reason, found.node, found.depth) == ("'x' would be both 'b' and 'a'", "Exp_0", 5)


def test_values_that_others_read_stay() -> None:
    found = last("{ s = Sigmoid(a) n = Neg(s) m = Add(n, b) out = Mul(a, s) }", SILU)
    assert str(found) == "its value is also read by 'Neg_1' (node 'Sigmoid_0')"


def test_constants_and_names() -> None:
    body = " <float[1] two = {2.0}> { p = Mul(two, a) out = Neg(p) }"
    found = last(body, Op("Neg", Op("Mul", X, Const("k"), name="product"), name="root"))
    assert isinstance(found, Match)
    assert found.value("k").tolist() == [2.0]
    assert (found.named["product"].op, found.root is found.named["root"]) == ("Mul", True)
    assert [node.op for node in found.nodes] == ["Neg", "Mul"]
