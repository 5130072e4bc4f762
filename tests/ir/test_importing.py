"""Models read as graphs: object for object what onnx_graphsurgeon's own importer makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxgraft.golden import catalog
from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.importing import import_model
from onnxgraft.ir.serde import read_skeleton

OBJECTS = (gs.Graph, gs.Node, gs.Tensor, LazyValues)


def differences(ours: Any, theirs: Any) -> list[str]:
    """Where two graphs differ: in a type, an attribute, an order, or in which objects are one and the same."""
    found: list[str] = []
    twins: dict[int, Any] = {}
    waiting: list[tuple[str, Any, Any]] = [("graph", ours, theirs)]
    while waiting and len(found) < 5:
        place, one, other = waiting.pop()
        if type(one) is not type(other):
            found.append(f"{place}: {type(one)} against {type(other)}")
        elif isinstance(one, OBJECTS):
            if id(one) in twins:
                found += [f"{place}: is another object"] if twins[id(one)] is not other else []
                continue
            twins[id(one)] = other
            waiting.append((f"{place} ({getattr(one, 'name', '')})", vars(one), vars(other)))
        elif isinstance(one, dict):
            found += [f"{place}: {list(one)} against {list(other)}"] if list(one) != list(other) else []
            waiting += [(f"{place}.{key}", one[key], other[key]) for key in one if key in other]
        elif isinstance(one, list):
            found += [f"{place}: {len(one)} against {len(other)} elements"] if len(one) != len(other) else []
            held = getattr(one, "__dict__", {}), getattr(other, "__dict__", {})  # of a list that is synchronized
            waiting += [(place, *held), *((f"{place}[{i}]", *pair) for i, pair in enumerate(zip(one, other, strict=False)))]
        elif one != other:
            found.append(f"{place}: {one} against {other}")
    return found


@pytest.mark.parametrize("name", ["mask_rcnn", "mask_rcnn@opset11", "panoptic_fpn_thin", "fcos_torchvision_thin"])
def test_exports(name: str, tmp_path: Path) -> None:
    model = read_skeleton(catalog.resolve(name, tmp_path), Bounds()).model
    graph = import_model(model)
    assert len(graph.nodes) > 1000
    assert differences(graph, gs.import_onnx(model)) == []


def _odd() -> onnx.ModelProto:
    """Whatever an importer could mistake: branches that read around them, types told twice, nowhere or in part, and so on."""
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "untold"], ["x"]), helper.make_node("Relu", ["x"], ["y"])], "inner", [],
        [onnx.ValueInfoProto(name="y")], [numpy_helper.from_array(np.ones(3, np.float32), "w")],
    )  # fmt: skip
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [2.0])
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1]), "at"), [3])
    half, typed = onnx.ValueInfoProto(name="told"), helper.make_tensor_value_info("told", 1, ["n", None, 3])
    half.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = [
        helper.make_node("If", ["c"], ["told"], name="branch", then_branch=inner, else_branch=inner),
        helper.make_node("Clip", ["told", "", "w"], ["clipped"]),
        helper.make_node("Odd", ["clipped", "clipped", "sparse"], ["untold", ""], domain="other", words=["a", "b"], word="c",
                         share=0.5, shares=[0.5, 2.0], table=numpy_helper.from_array(np.eye(2), "t")),
        helper.make_node("Default", ["bare"], ["sequence"], domain=""),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info("x", 1, [2]), helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", 1, [3]), helper.make_tensor_value_info("z", 16, [2])]  # fmt: skip
    outputs = [helper.make_tensor_value_info("clipped", 1, None), helper.make_tensor_sequence_value_info("sequence", 1, [2])]
    weights = [numpy_helper.from_array(np.ones(3, np.float32), "w"), helper.make_tensor("b", TensorProto.BFLOAT16, [1], [1.0])]
    graph = helper.make_graph(nodes, "odd", ends, outputs, weights, "says what", [half, typed, half], [sparse])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("other", 1)])


def test_what_few_models_hold() -> None:
    model = _odd()
    graph = import_model(model)
    assert [node.op for node in graph.nodes] == ["If", "Clip", "Odd", "Default"]
    assert differences(graph, gs.import_onnx(model)) == []


def test_functions_are_kept() -> None:
    model = _odd()
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("other", "Odd", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    assert [function.name for function in import_model(model).functions] == ["Odd"]


def test_lists_stay_synchronized() -> None:
    graph = import_model(_odd())
    clip, odd = graph.nodes[1], graph.nodes[2]
    assert [node.name for node in clip.outputs[0].outputs] == [odd.name, odd.name]
    odd.inputs[0] = graph.inputs[0]
    assert sum(node is odd for node in clip.outputs[0].outputs) == 1
    assert any(node is odd for node in graph.inputs[0].outputs)


def test_differences_are_told() -> None:
    changed = import_model(_odd())
    changed.nodes[2].attrs["share"] = 0.25
    (told,) = differences(changed, gs.import_onnx(_odd()))
    assert told.endswith("share: 0.25 against 0.5")
