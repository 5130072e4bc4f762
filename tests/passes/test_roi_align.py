"""roi-align."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from helpers.stages import SIZE, Stages, detect, run_unordered, same

from onnxgraft.errors import PassError
from onnxgraft.passes import FixInput, RoiAlign
from onnxgraft.passes.emit.roi_pooler import fpn_scale


def test_fires_and_changes_no_detection(stages: Stages) -> None:
    record = stages.report["roi-align"]
    assert record.changed
    assert record.statistics == {"poolers": 2}
    assert same(stages.detections("rpn-nms"), stages.detections("roi-align")) is None


def test_the_maze_is_two_plugin_nodes(stages: Stages) -> None:
    before, _ = stages.before_pass("roi-align")
    graph, _ = stages.after_pass("roi-align")
    assert sum(node.op == "RoiAlign" for node in before.nodes) == 8
    assert not any(node.op in ("RoiAlign", "ScatterND", "Floor") for node in graph.nodes)
    box, mask = [node for node in graph.nodes if node.op == "PyramidROIAlign_TRT"]
    for node, size in ((box, 7), (mask, 14)):
        assert node.attrs["pooled_size"] == size
        assert node.attrs["fpn_scale"] == 224
        assert node.attrs["image_size"] == [1, 256 * 320 + 1]  # as parts of the canvas: it promotes boxes at equality
        assert node.attrs["sampling_ratio"] == 0
        assert node.attrs["roi_coords_transform"] == 2
        assert node.attrs["roi_coords_absolute"] == 0
        assert [t.shape[2:] for t in node.inputs[1:]] == [[64, 80], [32, 40], [16, 20], [8, 10]]
    assert box.outputs[0].shape == [1, 1000, 64, 7, 7]


def test_unaligned_pooling_of_two_samples(stages: Stages, tmp_path: Path) -> None:
    """POOLER_TYPE ROIAlign with sampling ratio 2, put into the export itself."""
    graph, ctx = stages.after_pass("simplify")
    for node in graph.nodes:
        if node.op == "RoiAlign":
            node.attrs |= {"coordinate_transformation_mode": "output_half_pixel", "sampling_ratio": 2}
    steps = list(stages.pipeline.passes)
    names = [step.name() for step in steps]
    height, width = SIZE
    run_unordered([FixInput(height=height, width=width), *steps[4 : names.index("roi-align")]], graph, ctx)
    before = detect(graph, ctx, stages.image, tmp_path)
    run_unordered([RoiAlign()], graph, ctx)
    nodes = [n for n in graph.nodes if n.op == "ROIAlign_TRT"]
    settings = {(n.attrs["coordinate_transformation_mode"], n.attrs["sampling_ratio"]) for n in nodes}
    assert settings == {(0, 2)}
    assert len(nodes) == 8  # a map of each pooler, where the pyramid's plugin would cut thin boxes off at the far edge
    assert same(before, detect(graph, ctx, stages.image, tmp_path)) is None
    assert same(before, stages.detections("roi-align")) is not None  # it is another pooling


def test_a_canonical_size_that_is_no_whole_scale_is_refused(stages: Stages) -> None:
    graph, ctx = stages.before_pass("roi-align")
    pooler = dataclasses.replace(ctx.spec().box_pooler, canonical_size=224.4)
    ctx.detector = dataclasses.replace(ctx.spec(), box_pooler=pooler)
    with pytest.raises(PassError) as refused:
        run_unordered([RoiAlign()], graph, ctx)
    assert str(refused.value) == (
        "pass 'roi-align': canonical size 224.4 at level 4.0 is no whole fpn_scale "
        f"(node {pooler.pooled_tensor!r})"
    )


@pytest.mark.parametrize(
    ("size", "level", "first", "scale"),
    [(224.0, 4.0, 2, 224), (224.0, 5.0, 3, 224), (112.0, 3.0, 2, 224), (224.0, 4.0, 3, 448)],
)
def test_the_scale_follows_the_canonical_level(size: float, level: float, first: int, scale: int, stages: Stages) -> None:
    """A box of half the scale is the largest that the first of the four maps pools: level = floor(k + log2(s / k0))."""
    _, ctx = stages.before_pass("roi-align")
    pooler = dataclasses.replace(ctx.spec().box_pooler, canonical_size=size, canonical_level=level, min_level=first)
    assert fpn_scale(pooler) == scale
