"""fix-input."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import exports
from helpers.stages import SEED, Stages, detect, run_unordered

from onnxgraft.errors import OnnxgraftError
from onnxgraft.golden import scenes
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import fingerprint as fingerprint_of
from onnxgraft.passes import FixInput, Simplify, UpgradeOpset
from onnxgraft.pipeline.context import Context
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections


def test_fires_on_the_golden_export(stages: Stages) -> None:
    graph, ctx = stages.after_pass("fix-input")
    assert stages.report["fix-input"].changed
    assert graph.gs.inputs[0].shape == [1, 3, 256, 320]
    assert "Pad" not in {node.op for node in graph.nodes}
    assert graph.tensor(ctx.values.normalized).outputs[0].op == "Conv"
    assert {"static-input", "detector"} <= ctx.facts
    assert [level.height for level in ctx.spec().rpn.levels] == [64, 32, 16, 8, 4]
    assert [level.width for level in ctx.spec().rpn.levels] == [80, 40, 20, 10, 5]


def test_another_size_gives_what_detectron2_gives_there(stages: Stages, tmp_path: Path) -> None:
    """Exported at 1344x1344, fixed to 480x640; the reference is detectron2 in PyTorch on the image of 480x640."""
    graph, ctx = stages.after_pass("simplify")
    FixInput(height=480, width=640).run(graph, ctx)
    image = scenes.draw(SEED, (480, 640))[0]
    reference = Detections.load(Path(__file__).parents[1] / "data" / "mask_rcnn_480x640.npz")
    report = match(reference, detect(graph, ctx, image, tmp_path))
    assert len(reference) > 10
    assert report.exact, report
    assert report.box_px < 1e-3
    assert report.score < 1e-5


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (FixInput(height=100, width=320), "height 100 is not a multiple of 32; take 96"),
        (FixInput(height=320, width=333), "width 333 is not a multiple of 32; take 320"),
        (FixInput(height=32, width=320), "height 32 is not a multiple of 32; take 64"),
    ],
)
def test_impossible_sizes_are_refused(step: FixInput, reason: str, stages: Stages) -> None:
    graph, ctx = stages.after_pass("simplify")
    before = fingerprint_of(graph)
    with pytest.raises(OnnxgraftError) as refused:
        run_unordered([step], graph, ctx)
    assert str(refused.value) == f"fix-input: {reason}"
    assert fingerprint_of(graph) == before


def test_a_graph_that_was_simplified_at_its_size_keeps_it(tmp_path: Path) -> None:
    path = exports.write(exports.structure("shapes_480x640_sim"), tmp_path / "sim.onnx")
    steps = [UpgradeOpset(), Simplify()]
    graph, ctx = Graph.load(path), Context()
    run_unordered([*steps, FixInput(height=480, width=640)], graph, ctx)
    assert graph.gs.inputs[0].shape == [1, 3, 480, 640]
    graph, ctx = Graph.load(path), Context()
    with pytest.raises(OnnxgraftError) as refused:
        run_unordered([*steps, FixInput(height=512, width=512)], graph, ctx)
    assert str(refused.value).startswith("pass 'fix-input': this trace holds for 480x640 only: ")
    assert "folded by a simplifier, and do not fit here; take --size 480x640, " in str(refused.value)


def test_a_second_run_finds_the_same_detector(stages: Stages) -> None:
    graph, ctx = stages.after_pass("fix-input")
    found = ctx.spec()
    run_unordered([FixInput(height=256, width=320)], graph, ctx)
    assert graph.gs.inputs[0].shape == [1, 3, 256, 320]
    assert ctx.spec().rpn == found.rpn
    assert ctx.spec().box_head == found.box_head


def test_a_batch_goes_through_the_trunk(stages: Stages) -> None:
    graph, ctx = stages.after_pass("simplify")
    FixInput(height=256, width=320, batch=3).run(graph, ctx)
    assert graph.gs.inputs[0].shape == [3, 3, 256, 320]
    for level in ctx.spec().rpn.levels:
        assert graph.tensor(level.feature_tensor).shape[0] == 3
        assert graph.tensor(level.logits_tensor).shape == [3, 3, level.height, level.width]
