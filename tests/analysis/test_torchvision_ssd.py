"""torchvision's SSD: every class's column, threshold, top-k and boxes are read or refused; what is read is followed exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.members import answers, picture
from helpers.torchvision import SIZE, Change, constants, file_answers, put, recognise
from onnx import numpy_helper

from golden_graphs.zoo import checking
from onnxgraft.analysis.anchors import read_grid
from onnxgraft.detector.geometry import grid_anchors
from onnxgraft.detector.spec import DenseHead, DenseLevel, DetectorSpec
from onnxgraft.errors import InputError, Refusal
from onnxgraft.golden import catalog, pictures
from onnxgraft.ir.graph import Graph
from onnxgraft.passes import FixInput
from onnxgraft.pipeline.context import Context

MEMBER = "ssd_torchvision_thin"
CLASSES = 7
SAID = r"does not select its candidates as the first one and its number say: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ssd")


def dense_of(spec: DetectorSpec) -> DenseHead:
    assert spec.dense is not None
    return spec.dense


def nodes(model: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == op]


def named(model: onnx.ModelProto, name: str, values: object) -> str:
    """A new initializer; its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def columns(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The Gathers that take each class's column of the scores, in order."""
    compared = {n.input[0] for n in nodes(model, "Greater")}
    found = [n for n in nodes(model, "Gather") if n.output[0] in compared]
    assert len(found) == CLASSES
    return found


def boxes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The GatherNDs that take each class's boxes, in order."""
    flat = {n.output[0] for n in columns(model)}
    found = [n for n in nodes(model, "GatherND") if n.input[0] not in flat]
    assert len(found) == CLASSES
    return found


def limits(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The constants 100 that bound each class's TopK, in order."""
    held = constants(model)
    found = [held[n.input[0]] for n in nodes(model, "Concat") if n.input[0] in held and len(n.input) == 2]
    found = [t for t in found if numpy_helper.to_array(t).tolist() == [100]]
    assert len(found) == CLASSES
    return found


def keep(*numbers: int) -> Change:
    """Let the classes keep so many candidates, one number for all or one each."""

    def change(model: onnx.ModelProto) -> None:
        for tensor, number in zip(limits(model), numbers * CLASSES if len(numbers) == 1 else numbers, strict=True):
            tensor.CopyFrom(numpy_helper.from_array(np.array([number])))

    return change


def test_its_numbers_are_read(folder: Path) -> None:
    spec = recognise(None, folder, member=MEMBER)[0]
    head = dense_of(spec)
    assert (spec.family, head.activation, head.num_classes, head.class_topk) == ("ssd", "softmax", CLASSES, 100)
    assert (head.score_threshold, head.nms_threshold, head.detections_per_image) == (0.01, 0.45, 100)
    assert head.coder is not None
    assert head.coder.weights == (10, 10, 5, 5)
    assert [(level.height, level.width, level.anchors) for level in head.levels] == [
        (32, 40, 4), (16, 20, 6), (8, 10, 6), (4, 5, 6), (2, 3, 4), (1, 1, 4),
    ]  # fmt: skip
    assert [level.stride for level in head.levels[:4]] == [8, 16, 32, 64]
    assert head.levels[4].step == pytest.approx((320 / 3, 128)), "a map that does not divide the image"
    assert [form.first for form in spec.output_forms] == [1], "classes count from 1"
    assert (spec.image.order, spec.image.white) == ("RGB", 1.0)


FOLLOWED: dict[str, tuple[Change, Callable[[DenseHead], tuple[object, object]]]] = {
    "threshold": (put("Greater", 0.01, 0.7), lambda head: (head.score_threshold, 0.7)),
    "a class's candidates": (keep(12), lambda head: (head.class_topk, 12)),
    "box weights": (put("Div", 5.0, 4.0), lambda head: (head.coder.weights if head.coder else None, (10, 10, 4, 4))),
}


@pytest.mark.parametrize("form", checking.FORMS)
@pytest.mark.parametrize("name", FOLLOWED)
def test_other_numbers_are_followed(name: str, form: str, folder: Path) -> None:
    """Each makes other detections of this picture; the file itself says which are right."""
    change, read = FOLLOWED[name]
    spec, path = recognise(change, folder, member=MEMBER)
    found, wanted = read(dense_of(spec))
    assert found == pytest.approx(wanted)
    after = file_answers(path, picture(MEMBER), 1)
    same = after["boxes"].shape == answers(MEMBER)["boxes"].shape and np.allclose(after["boxes"], answers(MEMBER)["boxes"])
    assert not same, "it changes nothing here"
    result = checking.check(path, form, picture(MEMBER), after, folder, threads=1)
    assert result.exact, result


@pytest.mark.parametrize("form", checking.FORMS)
def test_classes_may_keep_more_candidates_than_there_are_anchors(form: str, folder: Path) -> None:
    """And than the plugin takes of an image."""
    spec, path = recognise(keep(9000), folder, member=MEMBER)
    assert dense_of(spec).class_topk == 9000
    result = checking.check(path, form, picture(MEMBER), file_answers(path, picture(MEMBER), 1), folder, threads=1)
    assert result.exact, result


@pytest.mark.parametrize("form", checking.FORMS)
def test_two_different_pictures_have_each_their_own_answers(form: str, folder: Path) -> None:
    path = catalog.resolve(MEMBER, folder)
    seen = [pictures.blocks(3, SIZE), picture(MEMBER)]
    wanted = [file_answers(path, image, 1) for image in seen]
    assert not np.allclose(wanted[0]["boxes"], wanted[1]["boxes"])
    for report in checking.check_batch(path, form, seen, wanted, folder, threads=1):
        assert report.exact, report
        assert report.reference == 100


@pytest.mark.parametrize("form", checking.FORMS)
def test_a_picture_with_few_candidates_has_few_detections(form: str, folder: Path) -> None:
    """Classes with none at all, and fewer in all than rows are kept."""
    path = recognise(put("Greater", 0.01, 0.97), folder, member=MEMBER)[1]
    after = file_answers(path, picture(MEMBER), 1)
    assert 0 < len(after["scores"]) < 10
    assert len(set(after["classes"].tolist())) < CLASSES
    result = checking.check(path, form, picture(MEMBER), after, folder, threads=1)
    assert result.exact, result


def threshold_of_one(model: onnx.ModelProto) -> None:
    nodes(model, "Greater")[3].input[1] = named(model, "another", np.float32(0.0101))


def threshold_met(model: onnx.ModelProto) -> None:
    nodes(model, "Greater")[2].op_type = "GreaterOrEqual"


def columns_swapped(model: onnx.ModelProto) -> None:
    one, other = columns(model)[1], columns(model)[4]
    one.input[1], other.input[1] = other.input[1], one.input[1]


def background_last(model: onnx.ModelProto) -> None:
    for index, node in enumerate(columns(model)):
        node.input[1] = named(model, f"column {index}", np.int64(index))


def labels_swapped(model: onnx.ModelProto) -> None:
    filled = [n for n in nodes(model, "ConstantOfShape") if numpy_helper.to_array(n.attribute[0].t).tolist() in ([2], [5])]
    assert len(filled) == 2
    first, second = (numpy_helper.to_array(n.attribute[0].t) for n in filled)
    filled[0].attribute[0].t.CopyFrom(numpy_helper.from_array(second))
    filled[1].attribute[0].t.CopyFrom(numpy_helper.from_array(first))


def moved(model: onnx.ModelProto, node: onnx.NodeProto, *made: onnx.NodeProto) -> None:
    """Put nodes in front of one."""
    for each in made:
        model.graph.node.insert(list(model.graph.node).index(node), each)


def other_corners(model: onnx.ModelProto) -> None:
    """One class takes its boxes' columns in another order."""
    taken = boxes(model)[5]
    order = named(model, "order", np.array([1, 0, 3, 2]))
    moved(model, taken, onnx.helper.make_node("Gather", [taken.input[0], order], ["turned"], "turn", axis=1))
    taken.input[0] = "turned"


CLASS_BY_CLASS: dict[str, tuple[Change, str]] = {
    "threshold of one": (threshold_of_one, r"it keeps \d+ candidates, not \d+"),
    "threshold met": (threshold_met, r"it keeps \d+ candidates, not \d+"),
    "k of one": (keep(100, 100, 100, 100, 101, 100, 100), r"it keeps 101 candidates, not 100"),
    "k of the first": (keep(99, *[100] * 6), r"it keeps 100 candidates, not 99"),
    "columns swapped": (columns_swapped, "other scores, or in another order"),
    "background last": (background_last, "other scores, or in another order"),
    "labels swapped": (labels_swapped, r"it is called \[\d\], not \d"),
    "corners of one": (other_corners, "other boxes than those of its scores"),
}


@pytest.mark.parametrize("name", CLASS_BY_CLASS)
def test_a_class_that_selects_otherwise_is_refused(name: str, folder: Path) -> None:
    change, words = CLASS_BY_CLASS[name]
    with pytest.raises(Refusal, match=rf"{SAID}.*{words}.*\(node '/TopK"):
        recognise(change, folder, member=MEMBER)


def unclipped(model: onnx.ModelProto) -> None:
    for node in nodes(model, "Min"):
        node.op_type, node.input[:] = "Identity", [node.input[0]]


def along_anchors(model: onnx.ModelProto) -> None:
    (softmax,) = nodes(model, "Softmax")
    softmax.attribute[0].i = 1


def flattened(model: onnx.ModelProto) -> None:
    """Let the logits be halved before the softmax."""
    (softmax,) = nodes(model, "Softmax")
    half = named(model, "half", np.float32(0.5))
    moved(model, softmax, onnx.helper.make_node("Mul", [softmax.input[0], half], ["halved"], "halve"))
    softmax.input[0] = "halved"


def levels_swapped(head: str) -> Change:
    """Let the levels of one head be joined in another order than those of the other, where both are of a size."""

    def change(model: onnx.ModelProto) -> None:
        join = next(n for n in nodes(model, "Concat") if n.name.startswith(f"/head/{head}_head/") and len(n.input) == 6)
        join.input[4], join.input[5] = join.input[5], join.input[4]

    return change


def sigmoids(model: onnx.ModelProto) -> None:
    (softmax,) = nodes(model, "Softmax")
    softmax.op_type = "Sigmoid"
    del softmax.attribute[:]


def branch(model: onnx.ModelProto) -> tuple[onnx.GraphProto, onnx.NodeProto]:
    """The branch that suppresses, and the node that makes the offsets between classes of their labels there."""
    graphs = [a.g for n in nodes(model, "If") for a in n.attribute]
    return next((g, n) for g in graphs for n in g.node if n.op_type == "Mul")


def without_classes(model: onnx.ModelProto) -> None:
    """Let boxes of all classes suppress one another: the offsets are nothing."""
    _, offsets = branch(model)
    offsets.op_type, offsets.input[:] = "Sub", [offsets.input[0]] * 2


def classes_in_pairs(model: onnx.ModelProto) -> None:
    """Let boxes of two classes each suppress one another: they have one offset."""
    graph, offsets = branch(model)
    cast = next(n for n in graph.node if n.output[0] == offsets.input[0])
    graph.initializer.append(numpy_helper.from_array(np.int64(2), "two"))
    graph.node.insert(list(graph.node).index(cast), onnx.helper.make_node("Div", [cast.input[0], "two"], ["pair"], "pairs"))
    cast.input[0] = "pair"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (unclipped, "not clipped to the image before each class takes its own"),
        (put("Min", 320.0, 300.0), "not clipped to the image before each class takes its own"),
        (along_anchors, "scores differ by .* from the softmax over classes and background"),
        (flattened, "scores differ by .* from the softmax over classes and background"),
        (levels_swapped("classification"), "class logits .* and deltas .* do not fit together|scores differ"),
        (levels_swapped("regression"), "class logits .* and deltas .* do not fit together|box decoding"),
        (sigmoids, "."),
        (without_classes, "the detections differ"),
        (classes_in_pairs, "the detections differ"),
    ],
)
def test_another_head_is_refused(change: Change, words: str, folder: Path) -> None:
    with pytest.raises(Refusal, match=rf"{words}.*\(node '.+'\)"):
        recognise(change, folder, member=MEMBER)


def test_its_own_canvas_need_not_be_a_multiple_of_32(folder: Path) -> None:
    """SSD300's is 300x300: what stands in the way there is only that this graph has no detector in it."""
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [3, 300, 300])
    made = onnx.helper.make_tensor_value_info("made", onnx.TensorProto.FLOAT, [3, 300, 300])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["image"], ["made"])], "relu", [image], [made])
    path = folder / "relu.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), path)
    with pytest.raises(InputError, match="height 330 is not a multiple of 32"):
        FixInput(height=330, width=300).run(Graph.load(path), Context())
    with pytest.raises(Refusal):
        FixInput(height=300, width=300).run(Graph.load(path), Context())


@pytest.mark.parametrize("size", [(300, 300), (320, 320), (512, 512), (640, 640), (200, 333), (800, 1333)])
def test_grids_of_fractional_steps_are_read_as_torchvision_makes_them(size: tuple[int, int]) -> None:
    """DefaultBoxGenerator's arithmetic, in float32; what it rounds to is said again to a few steps of float32."""
    height, width = size
    corners = np.array([width, height], np.float32)
    sides = np.array([[0.2, 0.2], [0.3, 0.3], [0.28, 0.14], [0.14, 0.28]], np.float32)
    for rows, columns in ((38, 38), (19, 20), (10, 10), (5, 7), (3, 3), (2, 3), (1, 4), (1, 1)):
        x, y = ((np.arange(n) + 0.5).astype(np.float32) / np.float32(n) for n in (columns, rows))
        centre = np.stack(np.meshgrid(x, y), -1).reshape(-1, 1, 2)
        half = np.float32(0.5) * sides
        anchors = np.concatenate([(centre - half) * corners, (centre + half) * corners], -1).reshape(-1, 4)
        grid = read_grid(anchors, rows, columns, size, "node")
        names = ("feature_tensor", "logits_tensor", "deltas_tensor", "boxes_tensor", "scores_tensor", "classes_tensor")
        level = DenseLevel(height=rows, width=columns, topk=1, centerness_tensor=None, anchors_tensor=None,
                           **vars(grid), **dict.fromkeys(names, ""))  # fmt: skip
        error = np.abs(grid_anchors(level) - anchors).max()
        assert error <= 4 * np.spacing(np.float32(max(size))), (rows, columns)


def test_anchors_that_are_no_grid_are_refused(folder: Path) -> None:
    """One default box lies a tenth of a pixel beside its place."""

    def beside(model: onnx.ModelProto) -> None:
        (softmax,) = nodes(model, "Softmax")
        (join,) = [n for n in nodes(model, "Concat") if n.output[0] == "/anchor_generator/Concat_43_output_0"]
        shift = np.zeros((7668, 4), np.float32)
        shift[3000] = 0.1
        made = onnx.helper.make_node("Add", ["as it was", named(model, "shift", shift)], [join.output[0]], "beside")
        join.output[0] = "as it was"
        moved(model, softmax, made)

    with pytest.raises(Refusal, match=r"the anchors are no regular grid.*\(node '.+'\)"):
        recognise(beside, folder, member=MEMBER)
