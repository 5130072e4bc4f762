"""What hands on its input goes; what nearly does stays."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.graphs import parse_graph

from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.folding import settle
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.normal_forms import normalise

NUMBERS = """<float one = {1.0}, float none = {0.0}, float two = {2.0}, float half = {0.5}, float third = {0.3},
 float low = {-3e38}, float high = {3e38}, float near = {5.0}, int64[2] kept = {0, 0}, int64[2] back = {-1, 6},
 int64[1] start = {0}, int64[1] all = {9223372036854775807}, int64[1] last = {-1}, int64[1] before = {-9223372036854775807},
 int64[1] axis = {1}, int64[1] step = {1}, int64[4] nothing = {0, 0, 0, 0}, int64[4] something = {0, 1, 0, 0},
 int64[2] parts = {2, 4}, float[1, 6] row = {1.0, 1.0, 1.0, 1.0, 1.0, 1.0}, int64[1] flat = {-1}, int64 second = {1},
 int64[1] from = {1}, int64[1] to = {2}>"""

GONE = {
    "times one": "y = Mul(x, one)", "plus nothing": "y = Add(none, x)", "to the power of one": "y = Pow(x, one)",
    "doubled and halved": "a = Mul(x, two) y = Mul(a, half)", "doubled and divided": "a = Mul(x, two) y = Div(a, two)",
    "negated twice": "a = Neg(x) y = Neg(a)", "the larger of it and itself": "y = Max(x, x)",
    "wide bounds": "y = Clip(x, low, high)",
    "padded by nothing": "y = Pad(x, nothing)", "a slice of all": "y = Slice(x, start, all, axis, step)",
    "turned round twice": "a = Slice(x, last, before, axis, last) y = Slice(a, last, before, axis, last)",
    "reshaped to itself": "y = Reshape(x, kept)", "flat and back": "a = Reshape(x, flat) y = Reshape(a, back)",
    "an axis more and less": "a = Unsqueeze(x, axis) y = Squeeze(a, axis)",
    "split and joined": "a, b = Split<axis = 1>(x, parts) y = Concat<axis = -1>(a, b)",
    "chosen from equals": "a = Greater(x, third) y = Where(a, x, x)",
}  # fmt: skip
STAYS = {
    "scaled": ("a = Mul(x, two) y = Mul(a, third)", 2), "bounded": ("y = Clip(x, low, near)", 1),
    "padded": ("y = Pad(x, something)", 1), "turned round once": ("y = Slice(x, last, before, axis, last)", 1),
    "joined in another order": ("a, b = Split<axis = 1>(x, parts) y = Concat<axis = 1>(b, a)", 2),
    "flattened": ("y = Reshape(x, flat)", 1),
    "a product with a row": ("y = Mul(x, row)", 1), "the larger of two": ("a = Neg(x) y = Max(x, a)", 2),
}  # fmt: skip
FORMS = {
    "computed twice": ("a = Mul(x, third) b = Mul(x, third) c = Exp(a) d = Exp(b) y = Add(c, d)", ["Mul", "Exp", "Add"]),
    "a comparison as not its opposite": ("a = LessOrEqual(x, third) b = Not(a) y = Cast<to = 1>(b)", ["Greater", "Cast"]),
    "one column by a slice": (
        "a = Slice(x, from, to, axis) b = Squeeze(a, axis) y = Unsqueeze(b, axis)", ["Gather", "Unsqueeze"],
    ),
    "a relu as the larger of it and nothing": ("a = Max(x, none) y = Mul(a, third)", ["Relu", "Mul"]),
    "an axis from the end": ("a = Gather<axis = -1>(x, second) y = Unsqueeze(a, axis)", ["Gather", "Unsqueeze"]),
}


def graph_of(body: str) -> Graph:
    head = '<ir_version: 8, opset_import: ["" : 16]> g (float[N, 6] x) => (float[a, b] z)'
    return parse_graph(f"{head} {NUMBERS} {{ {body} z = Identity(y) }}")


def answers(graph: Graph) -> np.ndarray:
    x = np.random.default_rng(5).normal(0, 3, (4, 6)).astype(np.float32)
    return evaluate(graph, list(graph.gs.outputs), {"x": x})[0]


@pytest.mark.parametrize("name", GONE)
def test_what_hands_on_its_input_goes(name: str) -> None:
    graph = graph_of(GONE[name].replace("y = ", "u = ") + " y = Exp(u)")
    before = answers(graph)
    settle(graph, shapes=False)
    while normalise(graph, rare=True):
        settle(graph, shapes=False)
    assert [n.op for n in graph.nodes] == ["Exp"]
    np.testing.assert_array_equal(answers(graph), before)


@pytest.mark.parametrize("name", GONE)
def test_an_output_that_is_handed_on_is_made_under_its_own_name(name: str) -> None:
    """So that what else reads the tensor reads the output."""
    graph = graph_of("e = Exp(x) " + re.sub(r"\bx\b", "e", GONE[name]))
    before = answers(graph)
    settle(graph, shapes=False)
    while normalise(graph, rare=True):
        settle(graph, shapes=False)
    assert [(n.op, n.outputs[0].name) for n in graph.nodes] == [("Exp", "z")]
    np.testing.assert_array_equal(answers(graph), before)


def in_a_branch(body: str, chosen: str = "Greater") -> Graph:
    """What makes y of x, and its exponential, where the sum of x says so; else -x."""
    branch = f"b () => (float[?, ?] w) {{ {body.replace('y = ', 'u = ')} w = Exp(u) }}"
    return graph_of(f"s = ReduceSum<keepdims = 0>(x) chosen = {chosen}(s, none) y = If(chosen)<then_branch = {branch}, "
                    f"else_branch = c () => (float[?, ?] v) {{ v = Neg(x) }}>")  # fmt: skip


@pytest.mark.parametrize("chosen", ["Greater", "Less"])
@pytest.mark.parametrize("name", STAYS)
def test_what_changes_its_input_in_a_branch_stays(name: str, chosen: str) -> None:
    body, left = STAYS[name]
    graph = in_a_branch(body, chosen)
    before = answers(graph)
    settle(graph, shapes=False)
    while normalise(graph, rare=True):
        settle(graph, shapes=False)
    held = next(n for n in graph.nodes if n.op == "If").attrs["then_branch"]
    assert len([n for n in held.nodes if n.op not in ("Exp", "Identity")]) == left
    np.testing.assert_array_equal(answers(graph), before)


@pytest.mark.parametrize("name", GONE)
def test_what_hands_on_its_input_in_a_branch_goes(name: str) -> None:
    graph = in_a_branch(GONE[name])
    before = answers(graph)
    settle(graph, shapes=False)
    while normalise(graph, rare=True):
        settle(graph, shapes=False)
    held = next(n for n in graph.nodes if n.op == "If").attrs["then_branch"]
    assert [t.inputs[0].op for t in held.outputs] == ["Exp"]
    assert held.outputs[0].inputs[0].inputs[0].name == "x"
    np.testing.assert_array_equal(answers(graph), before)


@pytest.mark.parametrize(("body", "left"), [("", ["Identity"]), ("y = Exp(x) w = Identity(y)", ["Exp", "Identity"])])
def test_one_tensor_has_one_name(body: str, left: list[str]) -> None:
    """The input itself as an output, and one tensor as two outputs, keep the node that gives it another name."""
    more = ", float[a, b] w" if body else ""
    graph = parse_graph(f'<ir_version: 8, opset_import: ["" : 16]> g (float[N, 6] x) => (float[a, b] z{more}) '
                        f"{{ {body} z = Identity({'y' if body else 'x'}) }}")  # fmt: skip
    names = [t.name for t in graph.gs.outputs]
    settle(graph, shapes=False)
    assert [n.op for n in graph.nodes] == left
    assert [t.name for t in graph.gs.outputs] == names


@pytest.mark.parametrize("name", STAYS)
def test_what_changes_its_input_stays(name: str) -> None:
    body, left = STAYS[name]
    graph = graph_of(body.replace("y = ", "u = ") + " y = Exp(u)")
    before = answers(graph)
    settle(graph, shapes=False)
    while normalise(graph, rare=True):
        settle(graph, shapes=False)
    assert len([n for n in graph.nodes if n.op not in ("Exp", "Identity")]) == left
    np.testing.assert_array_equal(answers(graph), before)


@pytest.mark.parametrize("name", FORMS)
def test_other_forms_become_the_usual_ones(name: str) -> None:
    body, ops = FORMS[name]
    graph = graph_of(body)
    before = answers(graph)
    settle(graph, shapes=False)
    while normalise(graph, rare=True):
        settle(graph, shapes=False)
    assert [n.op for n in graph.nodes if n.op != "Identity"] == ops
    assert all(n.attrs.get("axis", 0) >= 0 for n in graph.nodes)
    np.testing.assert_array_equal(answers(graph), before)
