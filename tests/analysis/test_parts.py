"""What an export does otherwise than detectron2 is refused, with the node or the part, wherever it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from helpers import dense_members
from helpers.stages import run_unordered

from onnxgraft.analysis import analyse
from onnxgraft.errors import Refusal
from onnxgraft.ir.folding import settle
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import infer_shapes
from onnxgraft.ir.traverse import contains_op
from onnxgraft.passes import RepairRoiAlign, Simplify, UpgradeOpset
from onnxgraft.passes.fix_input import resize_image, take_padding_out
from onnxgraft.pipeline.context import Context

Change = Callable[[Graph], None]
HEADS, RPN = "/roi_heads/", "/proposal_generator/"


def settled(model: Path, path: Path) -> Path:
    """The export as the analysis sees it at 256x320."""
    graph = Graph.load(model)
    run_unordered([UpgradeOpset(), RepairRoiAlign(), Simplify()], graph, Context())
    take_padding_out(graph, resize_image(graph, 256, 320))
    settle(graph)
    graph.save(path)
    return path


@pytest.fixture(scope="module")
def mask_rcnn(golden_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return settled(golden_model, tmp_path_factory.mktemp("settled") / "mask_rcnn.onnx")


@pytest.fixture(scope="module")
def retinanet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settled")
    return settled(dense_members.model("retinanet", folder), folder / "retinanet.onnx")


def changed(model: Path, change: Change) -> Graph:
    graph = Graph.load(model)
    infer_shapes(graph)
    change(graph)
    settle(graph)
    return graph


def node(graph: Graph, name: str) -> gs.Node:
    return next(n for n in graph.nodes if n.name == name)


def constant(name: str, value: Any, dtype: Any) -> gs.Constant:
    return gs.Constant(f"changed_{name.strip('/')}", np.array(value, dtype))


def given(name: str, index: int, value: Any, dtype: Any = np.int64) -> Change:
    """Another constant input."""

    def change(graph: Graph) -> None:
        node(graph, name).inputs[index] = constant(f"{name}{index}", value, dtype)

    return change


def operator(name: str, op: str) -> Change:
    def change(graph: Graph) -> None:
        node(graph, name).op = op

    return change


def without(name: str) -> Change:
    """The node hands on its first input."""

    def change(graph: Graph) -> None:
        graph.replace(node(graph, name).outputs[0], node(graph, name).inputs[0])
        node(graph, name).outputs.clear()

    return change


def every(op: str, new: str, part: str) -> Change:
    """All nodes of a kind in a part of the network become another kind."""

    def change(graph: Graph) -> None:
        found = [n for n in graph.nodes if n.op == op and part in n.name]
        assert found
        for each in found:
            each.op = new

    return change


def suppression(which: int, **changes: Any) -> Change:
    """Another input or attribute of the proposals' (0) or the detections' (1) NonMaxSuppression."""

    def change(graph: Graph) -> None:
        nms = contains_op([n for n in graph.nodes if n.op == "If"][which], "NonMaxSuppression")
        assert nms is not None
        nms.attrs |= {k: v for k, v in changes.items() if k == "center_point_box"}
        if "most" in changes:
            nms.inputs[2] = constant("most", [changes["most"]], np.int64)
        if "least" in changes:
            nms.inputs = [*list(nms.inputs)[:4], constant("least", [changes["least"]], np.float32)]

    return change


def without_offsets(which: int) -> Change:
    """Boxes of all levels or classes meet in the suppression; what kept them apart stays as dead nodes."""

    def change(graph: Graph) -> None:
        branch = [n for n in graph.nodes if n.op == "If"][which].attrs["else_branch"]
        (add,) = (n for n in branch.nodes if n.op == "Add" and "boxes_for_nms" in n.outputs[0].name)
        for reader in list(add.outputs[0].outputs):
            for index, tensor in enumerate(reader.inputs):
                if tensor is add.outputs[0]:
                    reader.inputs[index] = add.inputs[0]

    return change


def outputs(graph: Graph) -> dict[str, gs.Tensor]:
    by_rank = {2: "boxes", 1: "scores"}
    return {by_rank[len(t.shape)] if t.dtype == np.float32 else "classes": t for t in graph.gs.outputs
            if t.shape != [2] and len(t.shape or ()) in (1, 2)}  # fmt: skip


def behind(role: str, op: str, *constants: tuple[Any, Any], **attrs: Any) -> Change:
    """One more node behind an output."""

    def change(graph: Graph) -> None:
        old = outputs(graph)[role]
        more = [constant(f"behind{i}", value, dtype) for i, (value, dtype) in enumerate(constants)]
        new = gs.Variable("changed_output", old.dtype, list(old.shape))
        graph.gs.nodes.append(gs.Node(op, "the-change", attrs, [old, *more], [new]))
        graph.gs.outputs[:] = [new if t is old else t for t in graph.gs.outputs]

    return change


def filtered(keep: Callable[[Graph, dict[str, gs.Tensor]], gs.Tensor]) -> Change:
    """Boxes, scores and classes are gathered by the rows that `keep` makes."""

    def change(graph: Graph) -> None:
        found = outputs(graph)
        rows = keep(graph, found)
        for role, old in found.items():
            new = gs.Variable(f"filtered_{role}", old.dtype, ["some", *old.shape[1:]])
            graph.gs.nodes.append(gs.Node("Gather", f"filter-{role}", {"axis": 0}, [old, rows], [new]))
            graph.gs.outputs[:] = [new if t is old else t for t in graph.gs.outputs]
        graph.gs.toposort()

    return change


def layer(graph: Graph, op: str, inputs: Sequence[gs.Tensor], dtype: Any, **attrs: Any) -> gs.Tensor:
    out = gs.Variable(f"layer_{len(graph.gs.nodes)}", dtype)
    graph.gs.nodes.append(gs.Node(op, f"layer-{op}-{len(graph.gs.nodes)}", attrs, list(inputs), [out]))
    return out


def wide_ones(graph: Graph, found: dict[str, gs.Tensor]) -> gs.Tensor:
    left, right = (layer(graph, "Gather", [found["boxes"], constant(f"c{i}", i, np.int64)], np.float32, axis=1) for i in (0, 2))
    width = layer(graph, "Sub", [right, left], np.float32)
    wide = layer(graph, "Greater", [width, constant("wide", 30.0, np.float32)], bool)
    return layer(graph, "Squeeze", [layer(graph, "NonZero", [wide], np.int64), constant("axis", [0], np.int64)], np.int64)


def sure_ones(graph: Graph, found: dict[str, gs.Tensor]) -> gs.Tensor:
    sure = layer(graph, "Greater", [found["scores"], constant("sure", 0.3, np.float32)], bool)
    return layer(graph, "Squeeze", [layer(graph, "NonZero", [sure], np.int64), constant("axis", [0], np.int64)], np.int64)


def of_class_1(graph: Graph, found: dict[str, gs.Tensor]) -> gs.Tensor:
    own = layer(graph, "Equal", [found["classes"], constant("one", 1, np.int64)], bool)
    return layer(graph, "Squeeze", [layer(graph, "NonZero", [own], np.int64), constant("axis", [0], np.int64)], np.int64)


def five(graph: Graph, found: dict[str, gs.Tensor]) -> gs.Tensor:
    return constant("five", np.arange(5), np.int64)


def background_first(graph: Graph) -> None:
    given(HEADS + "Slice_6", 1, [1])(graph)
    given(HEADS + "Slice_6", 2, [2**62])(graph)


def masks_of_the_next_class(graph: Graph) -> None:
    index = node(graph, HEADS + "mask_head/Add")
    following = layer(graph, "Add", [index.inputs[0], constant("one", 1, np.int64)], np.int64)
    index.inputs[0] = layer(graph, "Mod", [following, constant("classes", 5, np.int64)], np.int64)
    graph.gs.toposort()


def behind_node(graph: Graph, maker: gs.Node, op: str, *more: gs.Tensor, **attrs: Any) -> gs.Tensor:
    """One more node behind another, for all its readers."""
    old = maker.outputs[0]
    readers = list(old.outputs)
    new = layer(graph, op, [old, *more], old.dtype, **attrs)
    new.shape = old.shape
    graph.redirect(readers, old, new)
    graph.gs.toposort()
    return new


def bounded_growth(part: str) -> Change:
    """Boxes may not grow more than ten thousand times, which the clamp keeps them from."""

    def change(graph: Graph) -> None:
        maker = next(n for n in graph.nodes if n.op == "Exp" and n.name.startswith(part))
        behind_node(graph, maker, "Min", constant("growth", 1e4, np.float32))

    return change


def without_large_ones(graph: Graph, found: dict[str, gs.Tensor]) -> gs.Tensor:
    """Acts on pictures of a size that no probe has."""
    right = layer(graph, "Gather", [found["boxes"], constant("c2", 2, np.int64)], np.float32, axis=1)
    near = layer(graph, "Less", [right, constant("far", 5000.0, np.float32)], bool)
    return layer(graph, "Squeeze", [layer(graph, "NonZero", [near], np.int64), constant("axis", [0], np.int64)], np.int64)


def survivors(graph: Graph, found: dict[str, gs.Tensor]) -> gs.Tensor:
    """A second suppression, across classes."""
    boxes = layer(graph, "Unsqueeze", [found["boxes"], constant("image", [0], np.int64)], np.float32)
    scores = layer(graph, "Unsqueeze", [found["scores"], constant("class", [0, 1], np.int64)], np.float32)
    numbers = [constant("most", [2**40], np.int64), constant("iou", [0.3], np.float32)]
    kept = layer(graph, "NonMaxSuppression", [boxes, scores, *numbers], np.int64)
    return layer(graph, "Gather", [kept, constant("third", 2, np.int64)], np.int64, axis=1)


def traced_count(graph: Graph) -> None:
    """Python's len of the traced picture's boxes, as sizes of a Split."""
    boxes = outputs(graph)["boxes"]
    (part,) = (gs.Variable("part", np.float32, [8, 4]),)
    graph.gs.nodes.append(gs.Node("Split", "traced", {"axis": 0}, [boxes, constant("eight", [8], np.int64)], [part]))
    graph.gs.outputs[:] = [part if t is boxes else t for t in graph.gs.outputs]


def mixed_rows(graph: Graph) -> None:
    maker = next(n for n in graph.nodes if n.op == "Gemm")
    old = maker.outputs[0]
    readers = list(old.outputs)
    mean = layer(graph, "ReduceMean", [old, constant("rows", [0], np.int64)], np.float32, keepdims=1)
    if graph.gs.opset < 18:
        mean.inputs[0].inputs, mean.inputs[0].attrs = [old], {"axes": [0], "keepdims": 1}
    new = layer(graph, "Sub", [old, mean], np.float32)
    new.shape = old.shape
    graph.redirect(readers, old, new)
    graph.gs.toposort()


CHANGES: dict[str, tuple[Change, str]] = {
    "a second suppression": (
        filtered(survivors), r"^(\d+ rows where 100 are expected|boxes of different classes suppress one another).*\(node '"),
    "scores calibrated": (behind("scores", "Mul", (0.9, np.float32)), r"^a Mul makes the scores.*\(node 'the-change'\)"),
    "boxes scaled by 1.1": (behind("boxes", "Mul", (1.1, np.float32)), r"^a Mul makes the boxes.*\(node 'the-change'\)"),
    "the traced picture's number of boxes": (traced_count, r"^this Split takes 8 boxes, .*TracingAdapter.*\(node 'traced'\)"),
    "a bound that no probe of the detections reaches": (
        bounded_growth(HEADS), r"^no probe of the detections shows what this Min does where it bounds by 10000"),
    "a bound that no probe of the proposals reaches": (bounded_growth(RPN), r"^no probe of the proposals shows what this Min "),
    "a filter that no probe reaches": (filtered(without_large_ones), r"^no probe of the detections shows what this \w+ does"),
    "a head that mixes rows": (mixed_rows, r"^the box head mixes rows here: .*\(node 'layer-(ReduceMean|Sub)"),
    "a filter of small boxes": (filtered(wide_ones), r"detections differ .*\(node '(layer|filter)-"),
    "a filter of scores": (
        filtered(sure_ones), r"no class scores: .*Slice_7_output_0' is read here, .*\(node 'layer-Greater-"),
    "a filter of classes": (filtered(of_class_1), r"detections differ .*\(node '(layer|filter)-"),
    "the first five alone": (filtered(five), r"5 rows where 100 are expected"),
    "corners in another order": (behind("boxes", "Gather", ([1, 0, 3, 2], np.int64), axis=1),
                                 r"in the order \[1, 0, 3, 2\].*\(node 'the-change'\)"),
    "reversed scores": (behind("scores", "Slice", ([-1], np.int64), ([-(2**62)], np.int64), ([0], np.int64), ([-1], np.int64)),
                        r"reversed.*\(node 'the-change'\)"),
    "the background first": (background_first, "a NonZero makes the classes of the detections"),
    "a score threshold in the suppression": (suppression(1, least=0.3), r"drops scores up to 0\.3"),
    "a bound in the suppression": (suppression(1, most=20), "gives out 20 boxes at most"),
    "centres in the suppression": (suppression(1, center_point_box=1), "centre and size"),
    "classes that meet": (without_offsets(1), "detections differ"),
    "levels that meet": (without_offsets(0), "proposals differ"),
    "proposals bounded in the suppression": (suppression(0, most=200), "gives out 200 boxes at most"),
    "results from the sixth on": (given(HEADS + "Slice_7", 1, [5]), r"starts at 5 .*Slice_7"),
    "every other result": (given(HEADS + "Slice_7", 4, [2]), r"steps by 2 .*Slice_7"),
    "a bound of the clip": (given(HEADS + "Clip_2", 2, 300.0, np.float32), "detections differ"),
    "a clip that is missing": (without(HEADS + "Clip_4"), r"detections differ|were not found"),
    "a clip of proposals that is missing": (without(RPN + "Clip_15"), "proposals differ"),
    "either side has length": (every("And", "Or", "proposal_generator"), "proposals differ"),
    "areas for their roots": (every("Sqrt", "Abs", "box_pooler"), "pooled features differ"),
    "the next class's mask": (masks_of_the_next_class, r"masks differ .*\(node 'layer-"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_the_answers_is_refused(what: str, mask_rcnn: Path) -> None:
    change, reason = CHANGES[what]
    with pytest.raises(Refusal, match=reason):
        analyse(changed(mask_rcnn, change))


def test_the_unchanged_graph_is_recognised(mask_rcnn: Path) -> None:
    spec = analyse(changed(mask_rcnn, lambda graph: None))
    assert spec.family == "mask-rcnn-fpn"


def swapped_comparison(graph: Graph) -> None:
    greater = node(graph, HEADS + "Greater")
    greater.op, greater.inputs = "Less", [greater.inputs[1], greater.inputs[0]]


def neutral(graph: Graph) -> None:
    """x * 1, x - 0, x / 1 and Dropout in front of a TopK, and a Clip written as Max and Min."""
    topk = next(n for n in graph.nodes if n.op == "TopK")
    tensor = topk.inputs[0]
    for op, number in (("Mul", 1.0), ("Sub", 0.0), ("Div", 1.0)):
        tensor = layer(graph, op, [tensor, constant(op, number, np.float32)], np.float32)
    topk.inputs[0] = layer(graph, "Dropout", [tensor], np.float32)
    clip = node(graph, HEADS + "Clip_2")
    low = layer(graph, "Max", [clip.inputs[0], clip.inputs[1]], np.float32)
    clip.op, clip.inputs = "Min", [low, clip.inputs[2]]
    graph.gs.toposort()


@pytest.mark.parametrize("change", [swapped_comparison, neutral])
def test_another_way_to_write_the_same_is_recognised(change: Change, mask_rcnn: Path) -> None:
    assert analyse(changed(mask_rcnn, change)).box_head == analyse(changed(mask_rcnn, lambda graph: None)).box_head


DENSE: dict[str, tuple[Change, str]] = {
    "a filter of small boxes": (filtered(wide_ones), "detections differ"),
    "the first five alone": (filtered(five), "detections differ"),
    "corners in another order": (behind("boxes", "Gather", ([1, 0, 3, 2], np.int64), axis=1), r"in the order \[1, 0, 3, 2\]"),
}


@pytest.mark.parametrize("what", DENSE)
def test_a_change_behind_a_dense_head_is_refused(what: str, retinanet: Path) -> None:
    change, reason = DENSE[what]
    with pytest.raises(Refusal, match=reason):
        analyse(changed(retinanet, change))


def test_an_unchanged_dense_head_is_recognised(retinanet: Path) -> None:
    assert analyse(changed(retinanet, lambda graph: None)).family == "retinanet"
