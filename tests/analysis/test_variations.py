"""What detectron2's detectors do not do behind their heads, or with a second network, is refused by node and reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, compose, helper, numpy_helper

from onnxgraft.errors import Refusal
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("variations")


def recognise(model: onnx.ModelProto, member: str, path: Path, allow: bool = False) -> Context:
    """Run the passes up to the analysis at the size of the member's export."""
    onnx.save(model, path)
    _, height, width = json.loads((catalog.folder(member) / "meta.json").read_text())["input"]["shape"]
    graph, ctx = Graph.load(path), Context()
    options = CompileOptions(size=(height, width), allow_unknown_outputs=allow)
    steps = {step.name(): step for step in default_pipeline(options, "onnxruntime").passes}
    for name in ("upgrade-opset", "simplify", "fix-input"):
        steps[name].run(graph, ctx)
    return ctx


def changed(rank: int, kind: int, op: str, *constants: float) -> Change:
    """Put one more operator behind the output of a rank and element type."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        output = next(o for o in graph.output if len(o.type.tensor_type.shape.dim) == rank
                      and o.type.tensor_type.elem_type == kind and _dims(o) != [2])  # fmt: skip
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = ["unchanged" if name == output.name else name for name in names]
        constant = np.array(constants, helper.tensor_dtype_to_np_dtype(kind))
        operands = ["operand"] if constants else []
        if constants:
            graph.initializer.append(numpy_helper.from_array(constant, "operand"))
        graph.node.append(helper.make_node(op, ["unchanged", *operands], [output.name], name="the-change"))

    return change


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def sampled_at_points(model: onnx.ModelProto) -> None:
    """Let the masks read the features at the corners of their boxes, instead of pooling them."""
    graph = model.graph
    pool = [n for n in graph.node if n.op_type == "RoiAlign"][-1]
    for name, values in (("as_points", [1, -1, 2, 2]), ("to_a_map", [1, 1, 14, 7])):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    features, boxes, result = pool.input[0], pool.input[1], pool.output[0]
    place = list(graph.node).index(pool)
    graph.node.remove(pool)
    for node in (
        helper.make_node("Tile", ["turned", "to_a_map"], [result]),
        helper.make_node("Transpose", ["sampled"], ["turned"], perm=[2, 1, 0, 3]),
        helper.make_node("GridSample", [features, "points"], ["sampled"], name="the-change"),
        helper.make_node("Reshape", [boxes, "as_points"], ["points"]),
    ):
        graph.node.insert(place, node)


def pooled_wider(model: onnx.ModelProto) -> None:
    """Let the last pooler, that of the masks, read larger boxes than those that are given out."""
    graph = model.graph
    made_by = {output: node for node in graph.node for output in node.output}
    node = made_by[[n for n in graph.node if n.op_type == "RoiAlign"][-1].input[1]]
    while node.op_type != "Concat":
        node = made_by[node.input[0]]
    boxes = node.input[1]
    node.input[1] = "wider"
    graph.initializer.append(numpy_helper.from_array(np.float32(1.1), "operand"))
    change = helper.make_node("Mul", [boxes, "operand"], ["wider"], name="the-change")
    graph.node.insert(list(graph.node).index(node), change)


def classes_mixed(model: onnx.ModelProto) -> None:
    """Let boxes of all classes suppress one another: their class moves them apart no more."""
    branch = [a.g for n in model.graph.node if n.op_type == "If" for a in n.attribute
              if any(inner.op_type == "NonMaxSuppression" for inner in a.g.node)][-1]  # fmt: skip
    apart = next(node for node in branch.node if node.op_type == "Mul")
    label = next(node for node in branch.node if node.op_type == "Cast" and node.output[0] in apart.input)
    apart.input[:] = ["operand" if name == label.output[0] else name for name in apart.input]
    branch.node.remove(label)
    branch.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "operand"))


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@pytest.mark.parametrize(
    ("member", "change", "words"),
    [
        ("faster_rcnn_C4_thin", changed(2, FLOAT, "Add", 1.0), "a Add makes the boxes of the detections"),
        ("faster_rcnn_C4_thin", changed(1, FLOAT, "Sqrt"), "a Sqrt makes the scores of the detections"),
        ("faster_rcnn_C4_thin", changed(1, INT64, "Mul", 2), "a Mul makes the classes of the detections"),
        ("cascade_mask_rcnn_thin", changed(1, FLOAT, "Mul", 0.9), "a Mul makes the scores of the detections"),
        ("mask_rcnn_DC5_thin", changed(4, FLOAT, "Sqrt"), "a Sqrt makes the masks"),
        ("mask_rcnn_DC5_thin", pooled_wider, "a Mul makes the boxes that this head is pooled from"),
        ("mask_rcnn_DC5_thin", sampled_at_points, "the masks are sampled .* point by point, and not as by PointRend"),
        ("retinanet_thin", changed(2, FLOAT, "Add", 1.0), "a Add makes the values of output"),
        ("fcos_thin", changed(1, FLOAT, "Mul", 0.9), "a Mul makes the values of output"),
        ("rpn_FPN_thin", changed(2, FLOAT, "Add", 1.0), "a Add makes the proposals"),
        ("rpn_FPN_thin", changed(1, FLOAT, "Mul", 0.9), "a Mul makes the objectness of the proposals"),
    ],
)  # fmt: skip
def test_what_follows_the_head_is_not_lost_in_silence(member: str, change: Change, words: str, folder: Path) -> None:
    model = onnx.load(catalog.resolve(member, folder))
    change(model)
    with pytest.raises(Refusal, match=rf"{words}.*\(node 'the-change'\)"):
        recognise(model, member, folder / "changed.onnx")


@pytest.mark.parametrize("member", ["faster_rcnn_C4_thin", "retinanet_thin"])
def test_classes_that_suppress_one_another_are_refused(member: str, folder: Path) -> None:
    model = onnx.load(catalog.resolve(member, folder))
    classes_mixed(model)
    with pytest.raises(Refusal, match=r"boxes of different classes suppress one another here.*\(node '.+'\)"):
        recognise(model, member, folder / "mixed.onnx")


def joined(first: str, second: str, folder: Path) -> onnx.ModelProto:
    """Two members in one graph, over one image."""
    model, other = (onnx.load(catalog.resolve(name, folder)) for name in (first, second))
    other = compose.add_prefix(other, "second/")
    for node in other.graph.node:
        node.input[:] = [model.graph.input[0].name if name == other.graph.input[0].name else name for name in node.input]
    model.graph.node.extend(other.graph.node)
    model.graph.initializer.extend(other.graph.initializer)
    model.graph.output.extend(other.graph.output)
    return model


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("rpn_FPN_thin", "rpn_C4_thin", "which output .* gives: an output of your own, or a second detector"),
        ("retinanet_thin", "fcos_thin", "which output .* gives: an output of your own, or a second detector"),
        ("semantic_fpn_thin", "rpn_C4_thin", "is none that a detector without RoIAlign has"),
    ],
)
def test_two_networks_are_refused(first: str, second: str, words: str, folder: Path) -> None:
    model = joined(first, second, folder)
    with pytest.raises(Refusal, match=rf"{words}.*--allow-unknown-outputs.*\(node '.+'\)"):
        recognise(model, first, folder / "two.onnx")
    with pytest.raises(Refusal, match=r"two networks in one graph: the image is also read .*\(node '.+'\)"):
        recognise(model, first, folder / "two.onnx", allow=True)


def branches(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    return [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]


def test_an_identity_in_front_of_a_branchs_threshold_hides_it_not(folder: Path) -> None:
    model = onnx.load(catalog.resolve("mask_rcnn", folder))
    passed = 0
    for branch in branches(model):
        for node in [n for n in branch.node if n.op_type == "NonMaxSuppression"]:
            held = helper.make_node("Identity", [node.input[3]], [f"{node.input[3]}/held"], name=f"{node.name}/held")
            branch.node.insert(list(branch.node).index(node), held)
            node.input[3] = held.output[0]
            passed += 1
    assert passed == 2, "the suppressions of proposals and of detections"
    spec = recognise(model, "mask_rcnn", folder / "held.onnx").spec()
    assert (spec.rpn and spec.rpn.nms_threshold, spec.box_head and spec.box_head.nms_threshold) == (0.7, 0.5)


def test_a_constant_behind_the_levels_logarithm_is_read(folder: Path) -> None:
    """log2(sqrt(area) / 224) + 1e-6, as torchvision has it: detectron2 adds its epsilon to the argument of the logarithm."""
    model = onnx.load(catalog.resolve("keypoint_rcnn_thin", folder))
    nodes = model.graph.node
    log = next(n for n in nodes if n.op_type == "Log")
    ratio = next(n for n in nodes if log.output[0] in n.input)
    later = next(n for n in nodes if ratio.output[0] in n.input)
    later.input[:] = ["shifted" if name == ratio.output[0] else name for name in later.input]
    shifted = helper.make_node("Add", [ratio.output[0], "shift"], ["shifted"], name="the-change")
    nodes.insert(list(nodes).index(later), shifted)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.25), "shift"))
    pooler = recognise(model, "keypoint_rcnn_thin", folder / "levels.onnx").spec().box_pooler
    assert pooler is not None
    assert (pooler.canonical_level, pooler.level_shift) == (0.25, 4.0), "in the order in which the graph adds them"
    assert pooler.epsilon == pytest.approx(1e-8)


def clipped_at(number: float, nodes: Sequence[onnx.NodeProto], held: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """The Clip nodes whose upper bound is a number, in the graph's order."""
    bounds = {name for name, tensor in held.items() if np.allclose(numpy_helper.to_array(tensor), number, atol=1e-4)}
    return [n for n in nodes if n.op_type == "Clip" and len(n.input) > 2 and n.input[2] in bounds]


@pytest.mark.parametrize(
    ("member", "place", "side"), [("rpn_FPN_thin", 1, "dh"), ("rpn_FPN_thin", -2, "dw"), ("retinanet_thin", -1, "dh")]
)
@pytest.mark.parametrize("bound", [None, 4.0])
def test_each_levels_clamp_of_dw_and_dh_is_read(member: str, place: int, side: str, bound: float | None, folder: Path) -> None:
    """One level, or one side alone, without it or with another one is no Box2BoxTransform."""
    model = onnx.load(catalog.resolve(member, folder))
    graph = model.graph
    held = {i.name: i for i in graph.initializer}
    held |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    clip = clipped_at(np.log(1000 / 16), graph.node, held)[place]
    if bound is None:
        clip.op_type, clip.input[:] = "Identity", clip.input[:1]
    else:
        graph.initializer.append(numpy_helper.from_array(np.array(bound, np.float32), "another_bound"))
        clip.input[2] = "another_bound"
    words = rf"{side} is clamped otherwise than at 4.1351|clamped near|no constant of the graph"
    with pytest.raises(Refusal, match=words) as caught:
        recognise(model, member, folder / "changed.onnx")
    assert caught.value.node


def test_distances_that_are_bounded_are_no_linear_coder(folder: Path) -> None:
    """FCOS's distances to the sides are not negative, and may be as large as they like, on each level."""
    model = onnx.load(catalog.resolve("fcos_thin", folder))
    relu = [n for n in model.graph.node if n.op_type == "Relu" and n.name.startswith("/model/Relu")][-1]
    bounds = {"least": np.array(0, np.float32), "most": np.array(30, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in bounds.items())
    relu.op_type = "Clip"
    relu.input.extend(bounds)
    with pytest.raises(Refusal, match="box decoding differs from Box2BoxTransformLinear"):
        recognise(model, "fcos_thin", folder / "changed.onnx")
