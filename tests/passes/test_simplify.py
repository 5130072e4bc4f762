"""simplify. What it folds and drops is tested case by case in test_folding.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.stages import Stages, detect, run_unordered

from onnxgraft.golden import catalog, scenes
from onnxgraft.ir.weights import is_large, weight_of
from onnxgraft.passes import Simplify
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections


def test_fires_on_the_golden_export(stages: Stages) -> None:
    record = stages.report["simplify"]
    assert record.changed
    assert record.nodes_after < 0.65 * record.nodes_before
    assert record.statistics["constant nodes"] > 500
    assert record.statistics["folded"] >= 40


def test_nothing_of_what_it_drops_is_left(stages: Stages) -> None:
    graph, _ = stages.after_pass("simplify")
    ops = {node.op for node in graph.nodes}
    assert not ops & {"Constant", "Identity"}
    assert {"Shape", "If", "Range"} <= ops  # the size of the image is not baked in


def test_weights_are_not_read(stages: Stages) -> None:
    graph, ctx = stages.after_pass("repair-roi-align")
    Simplify().run(graph, ctx)
    large = [t for t in graph.gs.tensors().values() if is_large(t)]
    assert len(large) > 70
    assert all(weight_of(t) is not None for t in large)


def test_second_run_changes_nothing(stages: Stages) -> None:
    assert not run_unordered([Simplify()], *stages.after_pass("simplify")).records[0].changed


@pytest.mark.slow
def test_detections_are_pytorchs(stages: Stages, tmp_path: Path) -> None:
    """At the size of the export: everything up to here, against detectron2's stored answers."""
    graph, ctx = stages.after_pass("simplify")
    scene = scenes.scene(2)
    reference = Detections.load(catalog.ROOT / "mask_rcnn" / "reference" / "scene_2.npz")
    report = match(reference, detect(graph, ctx, scene, tmp_path))
    assert report.exact, report
    assert report.box_px < 2e-3
