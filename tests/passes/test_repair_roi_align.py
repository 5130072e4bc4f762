"""repair-roi-align."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import pytest
from helpers.graphs import parse_graph, run_graph
from helpers.stages import Stages, run_unordered

from onnxgraft.errors import OnnxgraftError
from onnxgraft.ir.graph import Graph
from onnxgraft.passes import RepairRoiAlign, UpgradeOpset
from onnxgraft.pipeline.context import Context

ROI_ALIGN = """
<ir_version: 8, opset_import: ["" : OPSET]>
g (float[1,2,8,8] x, float[2,4] rois) => (float[2,2,3,3] y) {
    image = Constant<value = int64[2] {0, 0}>()
    y = RoiAlign<output_height=3, output_width=3, sampling_ratio=2, spatial_scale=0.25MODE>(x, rois, image)
}
"""
FEEDS = {
    "x": np.random.default_rng(0).standard_normal((1, 2, 8, 8)).astype(np.float32),
    "rois": np.array([[1, 2, 17, 25], [4, 4, 30, 12]], np.float32),
}


def graph_of(opset: int, mode: str = "") -> Graph:
    text = f', coordinate_transformation_mode="{mode}"' if mode else ""
    return parse_graph(ROI_ALIGN.replace("OPSET", str(opset)).replace("MODE", text))


def repaired(pooler_type: str, ctx: Context | None = None) -> Graph:
    graph = graph_of(11)
    run_unordered([UpgradeOpset(), RepairRoiAlign(pooler_type=pooler_type)], graph, ctx or Context())
    return graph


@pytest.mark.parametrize(("pooler_type", "mode"), [("ROIAlignV2", "half_pixel"), ("ROIAlign", "output_half_pixel")])
def test_an_old_export_pools_as_the_config_meant(pooler_type: str, mode: str, tmp_path: Path) -> None:
    (found,) = run_graph(repaired(pooler_type), FEEDS, tmp_path)
    (meant,) = run_graph(graph_of(16, mode), FEEDS, tmp_path)
    (other,) = run_graph(graph_of(16, "output_half_pixel" if mode == "half_pixel" else "half_pixel"), FEEDS, tmp_path)
    np.testing.assert_array_equal(found, meant)
    assert np.abs(found - other).max() > 0.1


def test_the_repair_is_said() -> None:
    ctx = Context()
    repaired("ROIAlignV2", ctx)
    assert ctx.statistics == {"RoiAlign nodes repaired": 1}
    assert ctx.notes == ["repaired 1 RoiAlign nodes to half_pixel: the export's opset 11 cannot say it "
                         "(keep it with --pooler-type ROIAlign)"]  # fmt: skip


def test_what_an_old_export_says_can_be_kept_silently() -> None:
    ctx = Context()
    repaired("ROIAlign", ctx)
    assert ctx.notes == []


def test_a_newer_export_means_what_it_says(stages: Stages) -> None:
    assert not stages.report["repair-roi-align"].changed
    graph = graph_of(16, "output_half_pixel")
    steps = [UpgradeOpset(), RepairRoiAlign()]
    assert not run_unordered(steps, graph, Context()).records[1].changed
    assert graph.nodes[-1].attrs["coordinate_transformation_mode"] == "output_half_pixel"


def test_an_opset_that_a_converter_wrote_says_nothing(tmp_path: Path) -> None:
    old = Graph(graph_of(11).gs).skeleton().model
    old.ir_version = 6
    onnx.save(onnx.version_converter.convert_version(old, 16), tmp_path / "converted.onnx")
    ctx, graph = Context(), Graph.load(tmp_path / "converted.onnx")
    assert graph.nodes[-1].attrs["coordinate_transformation_mode"] == "output_half_pixel"
    run_unordered([UpgradeOpset(), RepairRoiAlign()], graph, ctx)
    assert graph.nodes[-1].attrs["coordinate_transformation_mode"] == "half_pixel"
    assert ctx.notes == ["repaired 1 RoiAlign nodes to half_pixel: the export's opset 16 was raised by ONNX's version "
                         "converter (keep it with --pooler-type ROIAlign)"]  # fmt: skip


def test_second_run_changes_nothing() -> None:
    assert not run_unordered([RepairRoiAlign()], repaired("ROIAlignV2"), Context()).records[0].changed


def test_an_unknown_pooler_type_is_refused() -> None:
    with pytest.raises(OnnxgraftError) as refused:
        repaired("ROIPool")
    assert str(refused.value) == "repair-roi-align{pooler-type}: 'ROIPool' is not one of ROIAlignV2, ROIAlign"
