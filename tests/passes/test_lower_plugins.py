"""lower-plugins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.stages import Stages, detect, run_unordered, same

from onnxgraft.errors import InputError
from onnxgraft.instruments import verify_graph
from onnxgraft.ir.graph import PLUGIN_DOMAIN, Graph
from onnxgraft.passes import Fp16, LowerPlugins
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.record import PassRecord

PLUGINS = ["EfficientNMS_TRT", "EfficientNMS_TRT", "PyramidROIAlign_TRT", "PyramidROIAlign_TRT"]


def lowered(stages: Stages, **options: str) -> tuple[Graph, Context, PassRecord]:
    graph, ctx = stages.before_pass("lower-plugins")
    return graph, ctx, run_unordered([LowerPlugins(**options)], graph, ctx).records[0]  # type: ignore[arg-type]


def plugins(graph: Graph) -> list[tuple[str, str | None]]:
    return sorted((node.op, node.domain) for node in graph.nodes if node.op in PLUGINS)


def test_onnx_runtime_keeps_functions(stages: Stages) -> None:
    graph, _, _ = lowered(stages, target="onnxruntime")
    assert plugins(graph) == [(op, PLUGIN_DOMAIN) for op in PLUGINS]
    assert sorted(graph.functions) == ["EfficientNMS_TRT", "PyramidROIAlign_TRT"]
    assert same(stages.detections("name-outputs"), stages.detections("lower-plugins"), px=0, score=0, mask=0) is None


def test_tensorrt_gets_plain_nodes_without_functions(stages: Stages) -> None:
    graph, _, record = lowered(stages, target="tensorrt")
    assert plugins(graph) == [(op, None) for op in PLUGINS]
    assert graph.functions == {}
    assert record.statistics == {"EfficientNMS_TRT handed over": 2, "PyramidROIAlign_TRT handed over": 2}
    assert verify_graph(graph) is None
    model = graph.skeleton().model
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 19)]
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}


def test_rtx_gets_standard_operators_and_the_same_detections(stages: Stages, tmp_path: Path) -> None:
    graph, ctx, record = lowered(stages, target="tensorrt-rtx")
    assert plugins(graph) == []
    assert graph.functions == {}
    assert record.statistics == {"EfficientNMS_TRT lowered": 2, "PyramidROIAlign_TRT lowered": 2}
    assert verify_graph(graph) is None
    found = detect(graph, ctx, stages.image, tmp_path)
    assert same(stages.detections("name-outputs"), found, px=2e-3, score=2e-5, mask=1e-3) is None


@pytest.mark.parametrize(("option", "left"), [("nms", PLUGINS[2:]), ("roi_align", PLUGINS[:2])])
def test_each_form_can_be_forced(option: str, left: list[str], stages: Stages, tmp_path: Path) -> None:
    graph, ctx, _ = lowered(stages, **{"target": "onnxruntime", option: "native"})
    assert plugins(graph) == [(op, PLUGIN_DOMAIN) for op in left]
    assert sorted(graph.functions) == sorted(set(left))
    found = detect(graph, ctx, stages.image, tmp_path)
    assert same(stages.detections("name-outputs"), found, px=2e-3, score=2e-5, mask=1e-3) is None


def test_cheaper_samplings_are_cheaper_and_not_the_same(stages: Stages, tmp_path: Path) -> None:
    graph, ctx, _ = lowered(stages, target="tensorrt-rtx", roi_sampling="fixed2")
    exact = stages.detections("name-outputs")
    found = detect(graph, ctx, stages.image, tmp_path)
    assert same(exact, found) is not None
    assert abs(len(found) - len(exact)) <= 0.2 * len(exact)
    assert np.abs(found.scores[:3] - exact.scores[:3]).max() < 0.05


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
def test_second_run_changes_nothing(target: str, stages: Stages) -> None:
    graph, ctx, _ = lowered(stages, target=target)
    assert not run_unordered([LowerPlugins(target=target)], graph, ctx).records[0].changed


def test_every_node_of_a_native_form_knows_its_plugin(stages: Stages) -> None:
    before, _ = stages.before_pass("lower-plugins")
    old = {node.name for node in before.nodes}
    sources = {node.name for node in before.nodes if node.op in PLUGINS}
    graph, _, _ = lowered(stages, target="tensorrt-rtx")
    made = [node for node in graph.nodes if node.name not in old]
    assert len(made) > 100
    for node in made:
        assert graph.origins[node.name].pass_name == "lower-plugins"
        assert set(graph.origins[node.name].sources) <= sources


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"nms": "fast"}, "{nms}: 'fast' is not one of auto, native, plugin"),
        ({"roi_align": "none"}, "{roi-align}: 'none' is not one of auto, native, plugin"),
        ({"roi_sampling": "fixed9"}, "{roi-sampling}: 'fixed9' is not one of exact, masked4, fixed2"),
    ],
)
def test_unknown_forms_are_refused(options: dict[str, str], reason: str) -> None:
    with pytest.raises(InputError) as refused:
        LowerPlugins(**options)  # type: ignore[arg-type]
    assert str(refused.value) == f"lower-plugins{reason}"


@pytest.mark.parametrize(("target", "native"), [("onnxruntime", False), ("tensorrt", False), ("tensorrt-rtx", True)])
def test_a_sampling_that_nothing_takes_is_refused(target: str, native: bool, stages: Stages) -> None:
    if native:
        lowered(stages, target=target, roi_sampling="masked4")
        return
    lowered(stages, target=target, roi_align="native", roi_sampling="masked4")
    with pytest.raises(InputError, match=r"--roi-sampling has no effect here: .*give --roi-align native"):
        lowered(stages, target=target, roi_sampling="masked4")
    with pytest.raises(InputError, match=r"--max-candidates has no effect here: .*give --nms native"):
        lowered(stages, target=target, max_candidates=500)


def test_native_pooling_reads_maps_of_two_bytes(stages: Stages) -> None:
    graph, ctx = stages.before_pass("lower-plugins")
    run_unordered([Fp16(), LowerPlugins(target="tensorrt-rtx")], graph, ctx)
    tables = [node for node in graph.nodes if node.op == "Concat" and list(node.outputs[0].shape or [])[1:] == [64]]
    assert {str(tensor.dtype) for node in tables for tensor in node.inputs} == {"float16"}
    assert verify_graph(graph) is None
