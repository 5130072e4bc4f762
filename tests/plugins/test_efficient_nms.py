"""EfficientNMS_TRT: function and native form against the NumPy oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import oracles
from helpers.plugin_runs import (
    build_rtx,
    largest_constant,
    lowered_model,
    run_function,
    run_lowered,
)

from onnxgraft.errors import PluginError
from onnxgraft.plugins import REGISTRY

OP = REGISTRY["EfficientNMS_TRT"]
DEFAULTS = {
    "score_threshold": 0.05,
    "iou_threshold": 0.5,
    "max_output_boxes": 20,
    "background_class": -1,
    "score_activation": 0,
    "class_agnostic": 0,
    "box_coding": 0,
}


def attrs(**changes: Any) -> dict[str, Any]:
    return {**DEFAULTS, **changes}


def make_boxes(rng: np.random.Generator, *shape: int, size: float = 100.0) -> np.ndarray:
    centre = rng.uniform(0, size, (*shape, 2))
    half = rng.uniform(size / 40, size / 4, (*shape, 2))
    return np.concatenate([centre - half, centre + half], axis=-1).astype(np.float32)


def assert_same(got: list[np.ndarray], expected: tuple[np.ndarray, ...]) -> None:
    for name, a, b in zip(OP.outputs, got, expected, strict=True):
        assert a.dtype == b.dtype, name
        if name == "detection_scores":
            np.testing.assert_allclose(a, b, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


def check(a: dict[str, Any], boxes: np.ndarray, scores: np.ndarray, **options: Any) -> np.ndarray:
    """Function and native form both equal the oracle; gives the detection counts."""
    expected = oracles.efficient_nms(boxes, scores, **a)
    assert_same(run_function(OP, a, boxes, scores), expected)
    assert_same(run_lowered(OP, a, boxes, scores, **options), expected)
    return expected[0].ravel()


@pytest.mark.parametrize("layout", ["shared", "shared4", "per_class"])
@pytest.mark.parametrize("agnostic", [0, 1])
@pytest.mark.parametrize("coding", [0, 1])
def test_random_batches(layout: str, agnostic: int, coding: int) -> None:
    rng = np.random.default_rng(1)
    batch, count, classes = 3, 60, 4
    middle = {"shared": (), "shared4": (1,), "per_class": (classes,)}[layout]
    boxes = make_boxes(rng, batch, count, *middle)
    if coding:
        boxes = np.abs(boxes)
    scores = rng.uniform(0, 1, (batch, count, classes)).astype(np.float32)
    a = attrs(class_agnostic=agnostic, box_coding=coding, score_threshold=0.5, background_class=2)
    counts = check(a, boxes, scores)
    assert (counts > 0).all()


@pytest.mark.parametrize("threshold", [0.0, 0.003, 0.05, 0.6])
def test_logits(threshold: float) -> None:
    rng = np.random.default_rng(2)
    boxes = make_boxes(rng, 2, 40)
    scores = rng.normal(-2, 3, (2, 40, 3)).astype(np.float32)
    check(attrs(score_activation=1, score_threshold=threshold), boxes, scores)


def test_dense_case_gives_failed_elements_at_the_tail() -> None:
    rng = np.random.default_rng(3)
    boxes = make_boxes(rng, 1, 5, size=1000)
    scores = np.array([[[0.9], [0.001], [0.8], [0.002], [0.0]]], np.float32)
    a = attrs(score_threshold=0.003, max_output_boxes=8)
    check(a, boxes, scores)
    got = run_function(OP, a, boxes, scores)
    assert got[0].item() == 5
    np.testing.assert_array_equal(got[2][0, 2:5], -32768)
    sparse = run_lowered(OP, a, boxes, scores, below_threshold_tail=0)
    assert sparse[0].item() == 2
    np.testing.assert_array_equal(sparse[2][0, 2:], 0)


def test_every_logit_enters_at_threshold_zero() -> None:
    boxes = make_boxes(np.random.default_rng(4), 1, 4, size=1000)
    scores = np.array([[[3.0], [-65536.0], [-np.inf], [-1.0]]], np.float32)
    a = attrs(score_activation=1, score_threshold=0.0, max_output_boxes=4)
    assert check(a, boxes, scores) == [4]
    assert run_function(OP, a, boxes, scores)[2][0, 2:].tolist() == [0.0, 0.0]


def test_thresholds_are_inclusive() -> None:
    half = np.array([[[0, 0, 2, 1], [1, 0, 2, 1], [10, 0, 11, 1]]], np.float32)  # IoU exactly 0.5
    scores = np.array([[[0.9], [0.8], [0.5]]], np.float32)
    assert check(attrs(score_threshold=0.5), half, scores) == [2]
    above = attrs(score_threshold=0.5, iou_threshold=float(np.nextafter(np.float32(0.5), 1)))
    assert check(above, half, scores) == [3]


def test_iou_at_the_threshold_for_awkward_floats() -> None:
    rng = np.random.default_rng(5)
    for _ in range(25):
        pair = make_boxes(rng, 1, 2, size=8)
        overlap = float(oracles.iou(pair[0, 0], pair[0, 1]))
        if overlap > 0:
            scores = np.array([[[0.9], [0.8]]], np.float32)
            assert check(attrs(iou_threshold=overlap), pair, scores) == [1]
            above = float(np.nextafter(np.float32(overlap), np.float32(2)))
            assert check(attrs(iou_threshold=above), pair, scores) == [2]


def test_ties_keep_their_order() -> None:
    rng = np.random.default_rng(6)
    boxes = make_boxes(rng, 2, 50)
    scores = rng.integers(0, 4, (2, 50, 3)).astype(np.float32) / 4
    check(attrs(), boxes, scores)


def test_degenerate_boxes() -> None:
    rng = np.random.default_rng(7)
    boxes = make_boxes(rng, 1, 24)
    boxes[0, 0:4, 2:] = boxes[0, 0:4, :2]  # a point
    boxes[0, 4:6] = boxes[0, 4]  # the same box twice
    boxes[0, 6:8] = [5, 5, 5, 20]  # a line, twice
    boxes[0, 8, 1] = np.nan
    boxes[0, 9] = np.nan
    boxes[0, 10] = [-np.inf, 0, np.inf, 10]
    boxes[0, 11] = [-1e6, -1e6, -9e5, -9e5]  # far outside
    boxes[0, 12:14] = [[30, 30, 10, 10], [10, 10, 30, 30]]  # corners swapped
    boxes[0, 14] = boxes[0, 8]
    scores = rng.uniform(0.1, 1, (1, 24, 2)).astype(np.float32)
    check(attrs(max_output_boxes=48), boxes, scores)


def test_nan_scores_never_pass() -> None:
    rng = np.random.default_rng(8)
    boxes = make_boxes(rng, 1, 10, size=1000)
    scores = rng.uniform(0.1, 1, (1, 10, 1)).astype(np.float32)
    scores[0, 3:6] = np.nan
    assert check(attrs(), boxes, scores) == [7]


def test_no_score_above_the_threshold() -> None:
    boxes = make_boxes(np.random.default_rng(9), 2, 10)
    scores = np.full((2, 10, 3), 0.01, np.float32)
    scores[1, 4, 1] = 0.9  # one image empty, the other not
    assert check(attrs(), boxes, scores).tolist() == [0, 1]


def test_fewer_candidates_than_rows() -> None:
    boxes = make_boxes(np.random.default_rng(10), 1, 3, size=1000)
    scores = np.full((1, 3, 1), 0.5, np.float32)
    assert check(attrs(max_output_boxes=50), boxes, scores) == [3]


def test_cap_holds_across_classes() -> None:
    """Of 6000 candidates that do not overlap, 5000 can come out."""
    rng = np.random.default_rng(11)
    grid = np.arange(3000, dtype=np.float32)[None, :, None] * 10
    boxes = np.concatenate([grid, grid * 0, grid + 5, grid * 0 + 5], axis=2)
    scores = rng.uniform(0.1, 1, (1, 3000, 2)).astype(np.float32)
    a = attrs(max_output_boxes=5600)
    got = run_function(OP, a, boxes, scores)
    assert got[0].item() == 5000
    best = np.sort(scores.ravel())[::-1]
    np.testing.assert_array_equal(got[2][0, :5000], best[:5000])
    assert not got[2][0, 5000:].any()


def test_without_the_cap_every_candidate_enters() -> None:
    """The 6000 proposals of C4 and DC5: the last 1000 come out too, in the function and in the native form."""
    plugin = REGISTRY["UncappedNMS"]
    assert not plugin.targets
    low = np.arange(6000, dtype=np.float32)[None, :, None] * 10
    boxes = np.concatenate([low, low, low + 5, low + 5], -1)
    scores = np.linspace(0.9, 0.1, 6000, dtype=np.float32)[None, :, None]
    a = attrs(max_output_boxes=6000)
    expected = (np.full((1, 1), 6000, np.int32), boxes, scores[..., 0], np.zeros((1, 6000), np.int32))
    assert_same(run_function(plugin, a, boxes, scores), expected)
    assert_same(run_lowered(plugin, a, boxes, scores, max_candidates=6000), expected)


@pytest.mark.parametrize("limit", [4000, 100])
def test_native_candidates(limit: int) -> None:
    """More than one TopK where the limit is above 3840; fewer candidates than pass otherwise."""
    rng = np.random.default_rng(12)
    boxes = make_boxes(rng, 1, 2100, size=3000)
    scores = rng.uniform(0.1, 1, (1, 2100, 2)).astype(np.float32)
    a = attrs(max_output_boxes=30)
    got = run_lowered(OP, a, boxes, scores, max_candidates=limit)
    assert_same(got, oracles.efficient_nms(boxes, scores, cap=limit, **a))


def test_a_chain_needs_as_many_iterations_as_boxes() -> None:
    """Each box overlaps only its neighbours: every second one survives, found one by one."""
    left = np.arange(300, dtype=np.float32) * 4
    boxes = np.stack([left, left * 0, left + 6, left * 0 + 10], axis=1)[None]
    scores = np.linspace(0.9, 0.1, 300, dtype=np.float32)[None, :, None]
    a = attrs(iou_threshold=0.2, max_output_boxes=300)
    assert check(a, boxes, scores) == [150]


@pytest.mark.parametrize("count", [512, 513, 701, 1024])
def test_a_matrix_in_two_halves(count: int) -> None:
    """Up to 512 candidates make one, more make two, odd numbers too; a chain crosses the middle; classes and images mix."""
    rng = np.random.default_rng(count)
    boxes = make_boxes(rng, 2, count, size=900)
    step = np.arange(40, dtype=np.float32) * 4
    boxes[0, count // 2 - 20 : count // 2 + 20] = np.stack([step, step * 0, step + 6, step * 0 + 10], axis=1)
    scores = np.linspace(0.9, 0.1, count, dtype=np.float32)[None, :, None].repeat(2, 0)
    a = attrs(iou_threshold=0.2, max_output_boxes=count)
    assert check(a, boxes, scores).max() < count
    two = (scores * (1, 0.5) + 0.05 * rng.random((2, count, 2))).astype(np.float32)
    got = run_lowered(OP, a, boxes, two, max_candidates=count)
    assert_same(got, oracles.efficient_nms(boxes, two, cap=count, **a))


def test_a_chain_across_blocks() -> None:
    """1300 boxes in three blocks: what a block keeps decides in the next one."""
    left = np.arange(1300, dtype=np.float32) * 4
    boxes = np.stack([left, left * 0, left + 6, left * 0 + 10], axis=1)[None]
    scores = np.linspace(0.9, 0.1, 1300, dtype=np.float32)[None, :, None]
    a = attrs(iou_threshold=0.2, max_output_boxes=1300)
    assert check(a, boxes, scores) == [650]


@pytest.mark.parametrize("rows", [3, 200, 2000])
@pytest.mark.parametrize("matmul", ["float32", "float16"])
def test_blocks_of_images_that_differ(rows: int, matmul: str) -> None:
    """2054 candidates in five blocks, the last not full; the images have all, few and none, and enough after some blocks."""
    rng = np.random.default_rng(18)
    boxes = make_boxes(rng, 3, 1027, size=400)
    scores = rng.permutation(3 * 1027 * 2).reshape(3, 1027, 2).astype(np.float32) / (3 * 1027 * 2)
    scores[1, 40:] = 0
    scores[2] = 0
    a = attrs(score_threshold=0.01, max_output_boxes=rows)
    counts = check(a, boxes, scores, matmul=matmul)
    assert counts[0] > min(rows, 150) - 1
    assert counts[2] == 0


@pytest.mark.parametrize("per_class", [False, True])
def test_a_product_in_half_precision(per_class: bool) -> None:
    rng = np.random.default_rng(13)
    boxes = make_boxes(rng, 2, 80, *([5] if per_class else []))
    scores = rng.permutation(2 * 80 * 5).reshape(2, 80, 5).astype(np.float32) / 800
    check(attrs(max_output_boxes=60), boxes, scores, matmul="float16")


@pytest.mark.parametrize("shape", [(2, 90, 6), (1, 40, 1)])
def test_one_class_a_box(shape: tuple[int, int, int]) -> None:
    """A dense head's candidates: each has a score in one class's column, some below the threshold."""
    rng = np.random.default_rng(17)
    boxes = make_boxes(rng, *shape[:2])
    scores = np.full(shape, -1, np.float32)
    own = rng.integers(0, shape[2], shape[:2])
    np.put_along_axis(scores, own[..., None], rng.permutation(own.size).reshape(*shape[:2], 1).astype(np.float32) / own.size, 2)
    a = attrs(score_threshold=0.2, max_output_boxes=60)
    check(a, boxes, scores, grouping="box")
    fewer = run_lowered(OP, a, boxes, scores, grouping="box", max_candidates=30)
    assert_same(fewer, run_lowered(OP, a, boxes, scores, max_candidates=30))


@pytest.mark.parametrize("rows", [70, 30])
@pytest.mark.parametrize("coding", [0, 1])
def test_levels_as_batch(rows: int, coding: int) -> None:
    """Five levels, each sorted; what does not enter stands among what does, and fills up a short level."""
    rng = np.random.default_rng(14)
    boxes = np.abs(make_boxes(rng, 5, 70)) if coding else make_boxes(rng, 5, 70)
    scores = np.tile(np.arange(70, 0, -1, dtype=np.float32), (5, 1))[..., None]
    scores[rng.uniform(size=scores.shape) < 0.2] = 0
    scores[4, 20:] = 0
    a = attrs(score_threshold=0.5, iou_threshold=0.3, max_output_boxes=rows, box_coding=coding)
    counts = check(a, boxes, scores, presorted=1)
    assert (counts < rows).any()
    if rows == 70:
        check_in_place(a, boxes, scores)


def check_in_place(a: dict[str, Any], boxes: np.ndarray, scores: np.ndarray) -> None:
    """What is not zero in the rows that survivors keep is what comes out in order."""
    expected = oracles.efficient_nms(boxes, scores, **a)
    count, kept, best, classes = run_lowered(OP, a, boxes, scores, presorted=1, in_place=1)
    np.testing.assert_array_equal(count, expected[0])
    assert not classes.any()
    for image, number in enumerate(count.ravel()):
        alive = best[image] > 0
        assert alive.sum() == number
        np.testing.assert_array_equal(best[image][alive], scores[image, alive, 0])
        np.testing.assert_array_equal(kept[image][alive], expected[1][image, :number])
        assert not kept[image][~alive].any()


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"presorted": 1}, "presorted=1 needs one class"),
        ({}, {"in_place": 1}, "in_place=1 gives a row to each of 30 candidates, max_output_boxes is 20"),
    ],
)
def test_forms_that_do_not_fit_the_node(changes: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(PluginError, match=words):
        OP.lower(attrs(**changes), SHAPES, options)


def test_half_precision_function() -> None:
    rng = np.random.default_rng(15)
    boxes = make_boxes(rng, 1, 30).astype(np.float16)
    scores = rng.uniform(0, 1, (1, 30, 2)).astype(np.float16)
    got = run_function(OP, attrs(), boxes, scores)
    expected = oracles.efficient_nms(boxes.astype(np.float32), scores.astype(np.float32), **attrs())
    assert [o.dtype for o in got] == [np.int32, np.float16, np.float16, np.int32]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b.astype(a.dtype))


@pytest.mark.parametrize("opset", [17, 18, 19])
def test_function_opsets(opset: int) -> None:
    rng = np.random.default_rng(16)
    boxes, scores = make_boxes(rng, 1, 20), rng.uniform(0, 1, (1, 20, 2)).astype(np.float32)
    got = run_function(OP, attrs(), boxes, scores, opset=opset)
    assert_same(got, oracles.efficient_nms(boxes, scores, **attrs()))


CLASSES, LEVELS = [(2, 1000, 5, 4), (2, 1000, 5)], [(10, 1000, 4), (10, 1000, 1)]


@pytest.mark.parametrize(
    ("options", "shapes", "rows"),
    [
        ({}, CLASSES, 50), ({"matmul": "float16"}, CLASSES, 50), ({"max_candidates": 4500}, CLASSES, 50),
        ({"presorted": 1, "in_place": 1}, LEVELS, 1000),
    ],
    ids=str,
)  # fmt: skip
def test_tensorrt_rtx_builds_the_native_form(options: dict[str, Any], shapes: list[tuple[int, ...]], rows: int) -> None:
    a = attrs(score_activation=1, max_output_boxes=rows)
    model = lowered_model(OP, a, shapes, **options)
    assert build_rtx(model) < 4 << 20  # the K x K mask must not be folded into the engine
    assert largest_constant(model.graph) < 20000


SHAPES = [(1, 10, 4), (1, 10, 3)]


@pytest.mark.parametrize(
    ("changes", "shapes", "words"),
    [
        ({"score_threshold": -0.1}, SHAPES, ["score_threshold=-0.1", "at least 0"]),
        ({"iou_threshold": 0.0}, SHAPES, ["iou_threshold=0.0", "above 0"]),
        ({"max_output_boxes": 0}, SHAPES, ["max_output_boxes=0", "at least 1"]),
        ({"max_output_boxes": 1.5}, SHAPES, ["max_output_boxes=1.5", "type int"]),
        ({"box_coding": 2}, SHAPES, ["box_coding=2", "0 or 1"]),
        ({"class_agnostic": True}, SHAPES, ["class_agnostic=True", "type int"]),
        ({"score_bits": 10}, SHAPES, ["unknown 'score_bits'"]),
        ({"plugin_version": "2"}, SHAPES, ["plugin_version='2'"]),
        ({"score_activation": 1, "score_threshold": 1.0}, SHAPES, ["below 1"]),
        ({}, [(1, 10, 4), (1, 9, 3)], ["boxes [1, 10, 4]", "[1, 9, 4]"]),
        ({}, [(1, 10, 2, 4), (1, 10, 3)], ["boxes [1, 10, 2, 4]"]),
        ({}, [(1, 10, 4), (10, 3)], ["scores [10, 3]"]),
        ({}, [*SHAPES, (1, 10, 4)], ["3 inputs", "boxes, scores"]),
    ],
)
def test_refusals(changes: dict[str, Any], shapes: list[tuple[int, ...]], words: list[str]) -> None:
    with pytest.raises(PluginError) as caught:
        OP.validate(attrs(**changes), shapes, node="nms_7")
    for word in ["'nms_7'", *words]:
        assert word in str(caught.value)


def test_missing_attribute_is_named() -> None:
    with pytest.raises(PluginError, match="iou_threshold is missing"):
        OP.validate({"score_threshold": 0.1}, SHAPES)


def test_unknown_lowering_option_is_named() -> None:
    with pytest.raises(PluginError, match="unknown 'max_candidate'"):
        OP.lower(attrs(), SHAPES, {"max_candidate": 5})


def test_shapes_and_bytes() -> None:
    assert OP.infer_shapes(attrs(), SHAPES) == [(1, 1), (1, 20, 4), (1, 20), (1, 20)]
    again = OP.lower(attrs(), SHAPES).SerializeToString(deterministic=True)
    assert OP.lower(attrs(), SHAPES).SerializeToString(deterministic=True) == again
    assert OP.function().SerializeToString() == OP.function().SerializeToString()
