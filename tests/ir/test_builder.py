"""Formulas over values: the same answers on both back ends, names as given, types and shapes as ONNX infers them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.reference
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.value import Value, concat, constant, where
from onnxgraft.plugins.builder import Builder as BodyBuilder
from onnxgraft.plugins.builder import tensor_info

BOXES = np.array([[[1, 2, 4, 8], [5, 5, 5, 6], [-3, 0, 2, 2.5]]], np.float32)

FORMULAS: dict[str, tuple[Callable[[Value], Value], Callable[[np.ndarray], np.ndarray]]] = {
    "sides": (lambda x: x[..., 2:4] - x[..., 0:2], lambda x: x[..., 2:4] - x[..., 0:2]),
    "slices": (lambda x: x[:, 1:, ::2], lambda x: x[:, 1:, ::2]),
    "arithmetic": (lambda x: (1.0 - x) * 2.0 / (x + 10.5) + -x, lambda x: (1 - x) * 2 / (x + np.float32(10.5)) - x),
    "bounds": (lambda x: x.max(0.0).min([4.0, 5.0, 4.0, 5.0]), lambda x: np.minimum(np.maximum(x, 0), [4, 5, 4, 5])),
    "where": (
        lambda x: where((x > 0.0) & ~(x >= 5.0) | x.equal(-3.0), x, -1.0),
        lambda x: np.where((x > 0) & ~(x >= 5) | (x == -3), x, -1),
    ),
    "functions": (lambda x: x.exp().sqrt().log().floor() + x.abs().ceil(), lambda x: np.floor(x / 2) + np.ceil(np.abs(x))),
    "sigmoid": (lambda x: x.sigmoid() * x.relu(), lambda x: np.maximum(x, 0) / (1 + np.exp(-x))),
    "shapes": (
        lambda x: x.reshape(3, 4).transpose(1, 0).unsqueeze(0).squeeze(0),
        lambda x: x.reshape(3, 4).T,
    ),
    "reductions": (
        lambda x: concat(x.amax(2), x.amin(2), x.sum(2), axis=0),
        lambda x: np.concatenate([x.max(2), x.min(2), x.sum(2)], axis=0),
    ),
    "kept": (lambda x: x.amax(1, 2, keepdims=True), lambda x: x.max((1, 2), keepdims=True)),
    "rows": (lambda x: x.take([2, 0], axis=1), lambda x: x[:, [2, 0]]),
    "one": (lambda x: x.take(1, axis=1), lambda x: x[:, 1]),
    "whole numbers": (lambda x: (x.cast(np.int64) / 2 % 3).cast(np.float32), lambda x: np.trunc(np.trunc(x) / 2) % 3),
    "left of numpy": (lambda x: np.float32(2) * x - np.float32(1), lambda x: 2 * x - 1),
}


def new_graph(array: np.ndarray = BOXES) -> tuple[Graph, gs.Variable]:
    x = gs.Variable("x", array.dtype, list(array.shape))
    return Graph(gs.Graph(nodes=[], inputs=[x], outputs=[], opset=19)), x


@pytest.mark.parametrize("name", FORMULAS)
def test_both_back_ends_compute_the_formula(name: str) -> None:
    formula, expected = FORMULAS[name]
    graph, x = new_graph()
    made = formula(Builder(graph, "part").of(x)).handle
    computed = evaluate(graph, [made], {"x": BOXES})[0]
    np.testing.assert_allclose(computed, expected(BOXES), rtol=1e-6, atol=1e-6)
    assert (list(computed.shape), computed.dtype) == (made.shape, made.dtype)

    body = BodyBuilder()
    body.output(formula(body.input("x")), "y")
    proto = body.graph("g", [tensor_info("x", BOXES.shape)], [tensor_info("y", None)])
    model = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", 19)])
    (again,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": BOXES})
    np.testing.assert_allclose(again, expected(BOXES), rtol=1e-6, atol=1e-6)


def test_names_are_the_ones_given() -> None:
    graph, x = new_graph()
    graph.current_pass = "toy"
    b = Builder(graph, "part", ["old"])
    half = (b.of(x) * constant("half", 0.5)).named("halved")
    again = (half * constant("half", 0.5)).named("halved")
    plain = again + 1.0
    assert [half.name, again.name, plain.name] == ["part/halved", "part/halved_2", "part/add"]
    assert [node.name for node in graph.nodes] == ["part/Mul:halved", "part/Mul:halved_3", "part/Add:add"]
    assert [node.inputs[1].name for node in graph.nodes] == ["part/half", "part/half_1", "part/constant"]
    assert {name: (o.pass_name, o.sources) for name, o in graph.origins.items()} == {
        node.name: ("toy", ("old",)) for node in graph.nodes
    }


def test_both_results_of_a_top_k() -> None:
    graph, x = new_graph(BOXES[:, :, 0])
    b = Builder(graph, "part")
    best, index = b.of(x).topk([2], ("best", "index"), axis=1)
    computed = evaluate(graph, [best.handle, index.handle], {"x": BOXES[:, :, 0]})
    assert [c.tolist() for c in computed] == [[[5, 1]], [[1, 0]]]
    assert (best.shape, index.shape, index.handle.dtype) == ([1, 2], [1, 2], np.int64)
    assert graph.nodes[0].name == "part/TopK:best"


def test_dimensions_that_vary_keep_their_name() -> None:
    graph, _ = new_graph()
    b = Builder(graph, "part")
    rows = b.of(gs.Variable("rows", np.float32, ["found", 4]))
    assert rows[:, 0:2].shape == ["found", 2]
    assert (rows * 2.0).shape == ["found", 4]
    assert rows.take(b.of(gs.Variable("index", np.int64, ["kept"]))).shape == ["kept", 4]
    flat = rows.reshape(-1, hint="flat").named("flat")
    assert (flat.name, flat.shape) == ("part/flat_1", ["part/flat_1_0"])


def test_given_types_and_shapes_stand() -> None:
    graph, x = new_graph()
    made = Builder(graph, "part").op("NonZero", [x], "found", shape=[3, "rows"])
    assert (made.dtype, made.shape) == (np.int64, [3, "rows"])


def test_operands_that_do_not_fit_are_refused_with_the_node() -> None:
    graph, x = new_graph()
    with pytest.raises(Refusal, match="Add does not fit its inputs"):
        Builder(graph, "part").of(x) + constant("three", [1.0, 2.0, 3.0])
    assert graph.nodes == []
    with pytest.raises(TypeError, match="take slices here"):
        Builder(graph, "part").of(x)[0]


def test_a_body_takes_a_name_before_its_value_is_read() -> None:
    body = BodyBuilder()
    doubled = (body.input("x") * 2.0).named("doubled")
    assert (doubled.name, body.nodes[-1].output[0]) == ("doubled_3", "doubled_3")
    total = doubled + 1.0
    with pytest.raises(ValueError, match="name a value before"):
        doubled.named("late")
    assert list(body.nodes[-1].input) == [doubled.name, body.constant(1.0).name]
    assert total.name == body.nodes[-1].output[0]
