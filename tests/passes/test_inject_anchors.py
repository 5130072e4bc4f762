"""inject-anchors."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from helpers.stages import Stages, run_unordered, same

from onnxgraft.errors import PassError
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.traverse import ancestors
from onnxgraft.passes import InjectAnchors


def detectron2_anchors(stride: int, size: float, height: int, width: int) -> np.ndarray:
    """DefaultAnchorGenerator with ratios 0.5, 1, 2 and offset 0, written down independently: one loop a number."""
    rows = []
    for y in range(height):
        for x in range(width):
            for ratio in (0.5, 1.0, 2.0):
                w = (size * size / ratio) ** 0.5
                h = ratio * w
                rows.append([x * stride - w / 2, y * stride - h / 2, x * stride + w / 2, y * stride + h / 2])
    return np.array(rows)


def test_fires_and_changes_no_detection(stages: Stages) -> None:
    record = stages.report["inject-anchors"]
    assert record.changed
    assert record.statistics == {"anchors": 3 * (64 * 80 + 32 * 40)}  # the three small levels were folded before
    assert same(stages.detections("normalize-input"), stages.detections("inject-anchors"), px=0, score=0, mask=0) is None


def test_anchors_are_detectron2s(stages: Stages) -> None:
    _, ctx = stages.after_pass("inject-anchors")
    assert len(ctx.anchors) == 5
    for level, found in zip(ctx.spec().rpn.levels, ctx.anchors, strict=True):
        wanted = detectron2_anchors(level.stride, level.stride * 8, level.height, level.width)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_the_generator_is_gone(stages: Stages) -> None:
    graph, ctx = stages.before_pass("inject-anchors")
    old = graph.tensor(ctx.spec().rpn.levels[0].anchors_tensor or "")
    generator = {node.name for node in ancestors(old)}
    assert len(generator) > 5
    graph, ctx = stages.after_pass("inject-anchors")
    assert len(generator & {node.name for node in graph.nodes}) == 0
    constants = [t for t in graph.gs.tensors().values() if isinstance(t, gs.Constant) and t.name.startswith("anchors/")]
    assert sorted(len(t.values.reshape(-1, 4)) for t in constants) == [3840, 15360]


def test_anchors_that_differ_from_the_closed_form_are_refused(stages: Stages) -> None:
    graph, ctx = stages.before_pass("inject-anchors")
    spec = ctx.spec()
    levels = list(spec.rpn.levels)
    levels[0] = dataclasses.replace(levels[0], anchor_offset=0.25)
    ctx.detector = dataclasses.replace(spec, rpn=dataclasses.replace(spec.rpn, levels=tuple(levels)))
    node = graph.tensor(levels[0].anchors_tensor or "").inputs[0].name
    with pytest.raises(PassError) as refused:
        run_unordered([InjectAnchors()], graph, ctx)
    assert str(refused.value) == (
        "pass 'inject-anchors': anchors of stride 4 differ from the closed form by 1 pixels "
        f"(tolerance 0.0001) (node {node!r})"
    )


def test_the_tolerance_is_an_option(stages: Stages) -> None:
    graph, ctx = stages.before_pass("inject-anchors")
    spec = ctx.spec()
    levels = list(spec.rpn.levels)
    levels[0] = dataclasses.replace(levels[0], anchor_offset=0.25)
    ctx.detector = dataclasses.replace(spec, rpn=dataclasses.replace(spec.rpn, levels=tuple(levels)))
    (own,) = evaluate(graph, [graph.tensor(levels[0].anchors_tensor or "")])
    run_unordered([InjectAnchors(tolerance=5.0)], graph, ctx)
    np.testing.assert_array_equal(ctx.anchors[0], own.reshape(-1, 4))  # the graph's own anchors win


def test_anchors_folded_before_come_from_the_closed_form(stages: Stages) -> None:
    graph, ctx = stages.before_pass("inject-anchors")
    spec = ctx.spec()
    levels = tuple(dataclasses.replace(level, anchors_tensor=None) for level in spec.rpn.levels)
    ctx.detector = dataclasses.replace(spec, rpn=dataclasses.replace(spec.rpn, levels=levels))
    assert not run_unordered([InjectAnchors()], graph, ctx).records[0].changed
    _, injected = stages.after_pass("inject-anchors")
    for a, b in zip(ctx.anchors, injected.anchors, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
