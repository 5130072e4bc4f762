"""torchvision's detectors: what differs from detectron2 is read from the graph, followed exactly, or refused by node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from helpers.members import answers, picture
from helpers.torchvision import MEMBER, SIZE, Change, constants, file_answers, put, recognise, together
from onnx import numpy_helper

from golden_graphs.zoo import checking
from onnxgraft.analysis.mask_head import refuse_pasted
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.driver.compile import compile
from onnxgraft.errors import OnnxgraftError, Refusal
from onnxgraft.golden import catalog
from onnxgraft.golden.references import detections_of
from onnxgraft.options import Options
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.session import Session
from onnxgraft.tools.inspect import inspect

DENSE, KEYPOINTS = "retinanet_torchvision_thin", "keypoint_rcnn_torchvision_thin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torchvision")


EPSILON, RPN_SIDE, BOX_SIDE = put("Add", 1e-6, 0.25), put("GreaterOrEqual", 1e-3, 9.0), put("GreaterOrEqual", 1e-2, 14.0)
RPN_SCORE, SCORE = put("GreaterOrEqual", 0.0, 0.625), put("Greater", 0.05, 0.3)


def test_its_numbers_are_read(folder: Path) -> None:
    spec, _ = recognise(None, folder)
    rpn, head, pooler = spec.rpn, spec.box_head, spec.box_pooler
    assert rpn is not None
    assert head is not None
    assert pooler is not None
    assert (rpn.probabilities, rpn.score_threshold, rpn.min_box_size) == (True, 0.0, pytest.approx(1e-3))
    assert (head.background_first, head.num_classes, head.min_box_size) == (True, 7, pytest.approx(0.01))
    assert (pooler.epsilon, pooler.level_shift) == (0.0, pytest.approx(1e-6))
    assert (pooler.aligned, pooler.sampling_ratio, spec.image.white) == (False, 2, 1.0)
    assert [form.first for form in spec.output_forms] == [1], "classes count from 1"
    assert rpn.levels[0].cell_anchors == ((-23, -11, 23, 11), (-16, -16, 16, 16), (-11, -23, 11, 23)), "rounded"


@pytest.mark.parametrize("form", checking.FORMS)
def test_other_numbers_are_followed(form: str, folder: Path) -> None:
    """Together they make other detections of this picture; the file itself says which are right."""
    path = recognise(together(EPSILON, RPN_SIDE, BOX_SIDE, RPN_SCORE, SCORE), folder)[1]
    before, after = (file_answers(p) for p in (catalog.resolve(MEMBER, folder), path))
    assert len(after["scores"]) > 50
    assert not np.isin(before["scores"], after["scores"]).all()
    found = checking.check(path, form, picture(MEMBER), after, folder, threads=1)
    assert found.exact, found


@pytest.mark.parametrize(
    ("change", "read"),
    [
        (EPSILON, lambda spec: (spec.box_pooler.level_shift, 0.25)),
        (RPN_SIDE, lambda spec: (spec.rpn.min_box_size, 9.0)),
        (BOX_SIDE, lambda spec: (spec.box_head.min_box_size, 14.0)),
        (RPN_SCORE, lambda spec: (spec.rpn.score_threshold, 0.625)),
    ],
    ids=["epsilon", "proposals' side", "candidates' side", "proposals' score"],
)
def test_each_changed_number_is_read(
    change: Change, read: Callable[[DetectorSpec], tuple[float, float]], folder: Path
) -> None:
    found, wanted = read(recognise(change, folder)[0])
    assert found == pytest.approx(wanted)


def sliced(position: int, start: int, end: int) -> Change:
    """Let another column be left out of boxes, scores or labels, which are cut alike from their second axis."""

    def change(model: onnx.ModelProto) -> None:
        held = constants(model)
        nodes = [n for n in model.graph.node if n.op_type == "Slice" and n.name.startswith("/roi_heads/Slice")]
        cuts = [n for n in nodes if [numpy_helper.to_array(held[i]).tolist() for i in n.input[1:4] if i in held] ==
                [[1], [2**63 - 1], [1]] and n.input[0] in {o for m in model.graph.node for o in m.output
                if m.op_type in ("Reshape", "Slice", "Expand")} and not n.input[0].endswith("Reshape_output_0")]  # fmt: skip
        cut = cuts[position]
        for place, number in ((1, start), (2, end)):
            name = f"changed {place}"
            model.graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
            cut.input[place] = name

    return change


@pytest.mark.parametrize("position", [0, 1, 2], ids=["boxes", "scores", "labels"])
def test_one_of_them_without_another_column_is_refused(position: int, folder: Path) -> None:
    with pytest.raises(OnnxgraftError):
        recognise(sliced(position, 0, -1), folder)


@pytest.mark.parametrize(("number", "what"), [(1e-3, "proposals"), (1e-2, "candidates")])
def test_width_and_height_with_different_bounds_are_refused(number: float, what: str, folder: Path) -> None:
    with pytest.raises(Refusal, match=f"widths and heights of {what} are compared with"):
        recognise(put("GreaterOrEqual", number, 5.0, most=1), folder)


def strictly(model: onnx.ModelProto) -> None:
    """Let proposals be dropped that meet their threshold."""
    held = constants(model)
    nodes = [n for n in model.graph.node if n.op_type == "GreaterOrEqual" and numpy_helper.to_array(held[n.input[1]]) == 0]
    nodes[0].op_type = "Greater"


def test_proposals_that_meet_their_score_are_kept(folder: Path) -> None:
    with pytest.raises(Refusal, match=r"proposals that meet their threshold are dropped"):
        recognise(strictly, folder)


def test_a_resize_that_changes_the_image_is_refused_with_what_to_give(folder: Path) -> None:
    with pytest.raises(Refusal, match=r"an image of 256x320 is resized to 128x160 .* \(node '/transform/Resize'\)"):
        recognise(_resized(0.5), folder)
    with pytest.raises(Refusal, match=r"an image of 320x320 is resized to 256x320 .* give --size that canvas"):
        recognise(None, folder, (320, 320))


def _resized(share: float) -> Change:
    def change(model: onnx.ModelProto) -> None:
        resize = next(n for n in model.graph.node if n.name == "/transform/Resize")
        sizes = np.array([1, 3, SIZE[0] * share, SIZE[1] * share], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(sizes, "other sizes"))
        resize.input[3] = "other sizes"

    return change


def test_another_canvas_than_that_of_traced_maps_is_refused_with_what_to_give(folder: Path) -> None:
    """As exported by a wrapper around backbone and heads, with the sizes of the maps as constants."""

    def cut(model: onnx.ModelProto) -> None:
        given = next(n for n in model.graph.node if n.name == "/transform/Resize")
        for node in model.graph.node:
            node.input[:] = [given.input[0] if name == given.output[0] else name for name in node.input]
        enlarged = [n for n in model.graph.node if n.op_type == "Resize" and n.name.startswith("/backbone/fpn/")]
        for level, node in enumerate(enlarged):
            sizes = np.array([1, 16, 16 * 2**level, 20 * 2**level], np.int64)
            model.graph.initializer.append(numpy_helper.from_array(sizes, f"sizes {level}"))
            node.input[3] = f"sizes {level}"

    assert recognise(cut, folder)[0].rpn is not None
    for change in (cut, together(cut, strictly)):  # which would be refused for another reason, of less use here
        with pytest.raises(Refusal, match=r"holds for 256x320 only: .* --size 256x320, .*\(node '/backbone/fpn/Add'\)"):
            recognise(change, folder, (320, 384))


def test_an_opset_that_does_not_say_how_roi_align_is_aligned_is_refused(folder: Path) -> None:
    def older(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 15
        for node in model.graph.node:
            if node.op_type == "RoiAlign":
                kept = [a for a in node.attribute if a.name != "coordinate_transformation_mode"]
                del node.attribute[:]
                node.attribute.extend(kept)

    with pytest.raises(Refusal, match=r"this export of opset 15 .* build with --pooler-type ROIAlign"):
        recognise(older, folder)


def test_masks_in_the_picture_give_way_to_their_probabilities(folder: Path) -> None:
    """The answers are those of the same model without its post-processing."""
    path = catalog.resolve(f"{MEMBER}@pasted", folder)
    found = checking.check(path, "plugin", picture(MEMBER), answers(MEMBER), folder, threads=1)
    assert found.exact, found
    _, notes = inspect(path)
    assert any("masks [n, 1, H, W], pasted into the picture" in note and "masks as M x M" in note for note in notes)


def pasted(model: onnx.ModelProto) -> tuple[onnx.NodeProto, dict[str, onnx.NodeProto]]:
    """The loop that pastes masks, and what makes each tensor."""
    (loop,) = [n for n in model.graph.node if n.op_type == "Loop"]
    return loop, {o: n for n in (*model.graph.node, *loop.attribute[0].g.node) for o in n.output}


def nearest(model: onnx.ModelProto) -> None:
    loop, _ = pasted(model)
    (resize,) = [n for n in loop.attribute[0].g.node if n.op_type == "Resize"]
    next(a for a in resize.attribute if a.name == "mode").s = b"nearest"


def lower(model: onnx.ModelProto) -> None:
    """Let masks lie a pixel lower than their boxes."""
    loop, made = pasted(model)
    box = next(n.input[0] for n in loop.attribute[0].g.node if n.op_type == "Gather" and made[n.input[0]].op_type == "Cast")
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1, 0, 1], np.int64), "down"))
    for node in loop.attribute[0].g.node:
        node.input[:] = ["lower" if name == box else name for name in node.input]
    model.graph.node.insert(list(model.graph.node).index(loop), onnx.helper.make_node("Add", [box, "down"], ["lower"]))


@pytest.mark.parametrize("change", [nearest, lower])
def test_masks_that_are_pasted_otherwise_are_refused(change: Change, folder: Path) -> None:
    with pytest.raises(Refusal, match=r"pasted into the picture .* model.transform.postprocess .*\(node '.+'\)"):
        recognise(change, folder, member=f"{MEMBER}@pasted")


def test_pasted_masks_are_refused_with_how_to_export() -> None:
    pasted, masks = gs.Variable("pasted", np.float32), gs.Variable("masks", np.float32)
    gs.Node("Loop", "paste", inputs=[], outputs=[pasted])
    gs.Node("Unsqueeze", "channel", inputs=[pasted], outputs=[masks])
    with pytest.raises(Refusal, match=r"pasted into the picture .* model.transform.postprocess .* \(node 'paste'\)"):
        refuse_pasted(masks)


def test_keypoints_give_way_to_their_heatmaps(folder: Path) -> None:
    spec = recognise(None, folder, member=KEYPOINTS)[0]
    head = spec.keypoint_head
    assert head is not None
    assert (spec.family, head.keypoints, head.resolution) == ("keypoint-rcnn-fpn", 5, 56)
    assert [str(form) for form in spec.output_forms if form.decoded] == [
        "keypoints [n, K, 3], x, y and 1", "keypoints [n, K], their logits",
    ]  # fmt: skip


def loop_of(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], dict[str, onnx.NodeProto]]:
    """The nodes of the loop that decodes keypoints, and what makes each tensor there and around it."""
    bodies = [list(n.attribute[0].g.node) for n in model.graph.node if n.op_type == "Loop"]
    body = next(nodes for nodes in bodies if any(n.op_type == "Resize" for n in nodes))
    return body, {o: n for n in (*model.graph.node, *body) for o in n.output}


def offset(model: onnx.ModelProto) -> None:
    """Let a cell's keypoint be at another place than its middle."""
    body, made = loop_of(model)
    adds = [made[i].attribute[0].t for n in body if n.op_type == "Add" for i in n.input if made[i].op_type == "Constant"]
    halves = [t for t in adds if numpy_helper.to_array(t) == 0.5]
    assert len(halves) == 2
    halves[0].CopyFrom(numpy_helper.from_array(np.float32(0.25)))


def least_side(model: onnx.ModelProto) -> None:
    """Let maps be enlarged to eight pixels at least, not to one."""
    body, made = loop_of(model)
    clip = next(made[n.input[0]] for n in body if n.op_type == "Gather" and made[n.input[0]].op_type == "Clip")
    made[clip.input[1]].attribute[0].t.CopyFrom(numpy_helper.from_array(np.float32(8)))


def elsewhere(model: onnx.ModelProto) -> None:
    """Let keypoints be decoded on other boxes than those that are given out."""
    body, made = loop_of(model)
    corner = next(made[n.input[0]] for n in body if n.op_type == "Gather" and made[n.input[0]].op_type == "Gather")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3), "three"))
    moved = onnx.helper.make_node("Add", [corner.input[0], "three"], ["moved"], "the-change")
    model.graph.node.insert(list(model.graph.node).index(corner), moved)
    corner.input[0] = "moved"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (offset, "does not hold keypoints as torchvision's heatmaps_to_keypoints decodes them"),
        (least_side, "does not hold keypoints as torchvision's heatmaps_to_keypoints decodes them"),
        (elsewhere, "keypoints are decoded here of .*: export the heatmaps instead"),
    ],
)
def test_keypoints_that_are_decoded_otherwise_are_refused(change: Change, words: str, folder: Path) -> None:
    with pytest.raises(Refusal, match=rf"{words}.*\(node '.+'\)"):
        recognise(change, folder, member=KEYPOINTS)


@pytest.mark.parametrize("member", [MEMBER, DENSE])
def test_fp16_rounds_and_loses_nothing(member: str, folder: Path, tmp_path: Path) -> None:
    options = Options(precision="fp16", size=SIZE, target="onnxruntime", checks=False, proof=False)
    compile(catalog.resolve(member, folder), tmp_path / "out", options)
    (result,) = Session(tmp_path / "out", threads=2).run([picture(member)])
    found = match(detections_of(answers(member)), dataclasses.replace(result.raw, heatmaps=None), iou=0.9, score=0.05, mask=0.1)
    assert found.matched >= 0.97 * found.reference, found
    assert found.box_px > 0.005, "rounded"


def test_a_dense_head_clips_first_and_its_rows_lie_apart(folder: Path) -> None:
    dense = recognise(None, folder, member=DENSE)[0].dense
    assert dense is not None
    assert (dense.clipped_first, dense.num_classes, {level.topk for level in dense.levels}) == (True, 7, {300})
    assert [(level.stride_y or level.stride, level.stride) for level in dense.levels][-2:] == [(64, 64), (128, 106)]


@pytest.mark.parametrize("form", checking.FORMS)
def test_a_dense_heads_other_threshold_is_followed(form: str, folder: Path) -> None:
    spec, path = recognise(put("Greater", 0.05, 0.2), folder, member=DENSE)
    assert spec.dense is not None
    assert spec.dense.score_threshold == pytest.approx(0.2)
    after = file_answers(path)
    found = checking.check(path, form, picture(DENSE), after, folder, threads=1)
    assert found.exact, found


def test_a_dense_head_that_does_not_clip_is_refused(folder: Path) -> None:
    def unclipped(model: onnx.ModelProto) -> None:
        wide = {n.output[0] for n in model.graph.node if n.op_type == "Min"}
        assert wide
        for node in model.graph.node:
            if node.op_type == "Min":
                node.op_type, node.input[:] = "Identity", [node.input[0]]

    with pytest.raises(Refusal):
        recognise(unclipped, folder, member=DENSE)


def test_a_dense_head_of_softmaxes_is_refused_as_ssds(folder: Path) -> None:
    def softmaxes(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Sigmoid":
                node.op_type = "Softmax"

    with pytest.raises(Refusal, match=r"ranked here by a softmax over classes and background, as in SSD: .*\(node '.+'\)"):
        recognise(softmaxes, folder, member=DENSE)


def test_inspect_reads_it_too(folder: Path) -> None:
    spec, notes = inspect(catalog.resolve(MEMBER, folder))
    assert spec.box_head is not None
    assert spec.box_head.background_first
    assert any("classes counted from 1" in note for note in notes)


@pytest.mark.parametrize("deviation", [0.225, 0.57, 1.0])
def test_its_levels_are_0_to_1_with_another_deviation_too(deviation: float, folder: Path) -> None:
    """A mean of less than a level says so: of levels of 0..255 it would change nothing."""

    def change(model: onnx.ModelProto) -> None:
        (divide,) = [n for n in model.graph.node if n.name == "/transform/Div"]
        tensor = constants(model)[divide.input[1]]
        tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), deviation)))

    image = recognise(change, folder, member=DENSE)[0].image
    assert image.white == 1.0
    assert image.std == pytest.approx((255 * deviation,) * 3, rel=1e-5)
    assert image.order == "RGB"


def test_a_filter_behind_boxes_and_masks_is_named(folder: Path) -> None:
    """Masks come from the image, which the part of the detections does not: the reason is looked for in that part alone."""

    def filtered(model: onnx.ModelProto) -> None:
        (labels,) = [o.name for o in model.graph.output if o.type.tensor_type.elem_type == onnx.TensorProto.INT64]
        model.graph.initializer.extend(numpy_helper.from_array(np.array(n), name) for n, name in ((2, "two"), ([0], "first")))
        make = onnx.helper.make_node
        nodes = [make("Equal", [labels, "two"], ["is"]), make("NonZero", ["is"], ["rows"]),
                 make("Squeeze", ["rows", "first"], ["keep"])]  # fmt: skip
        for output in model.graph.output:
            nodes.append(make("Gather", [output.name, "keep"], [f"{output.name} kept"], f"filter {output.name}"))
            output.name = f"{output.name} kept"
            output.type.tensor_type.shape.dim[0].dim_param = "kept"
        model.graph.node.extend(nodes)

    with pytest.raises(Refusal, match=r"by what a Gather does here.*node 'filter "):
        recognise(filtered, folder)
