"""The fp16 pass on the trained detector at 256x320: where types change, what stays, what the detections say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from helpers.stages import Stages, detect, run_unordered

from onnxgraft.analysis.regions import find_regions
from onnxgraft.errors import InputError, PassError
from onnxgraft.instruments.stage import feeder
from onnxgraft.instruments.verify import verify_graph
from onnxgraft.ir.graph import Graph
from onnxgraft.passes import Bf16, Fp16
from onnxgraft.pipeline.context import Context, Ranges
from onnxgraft.runtime.comparison import match
from onnxgraft.targets import OrtRunner

SINGLE = {"NonMaxSuppression", "TopK", "Softmax", "Exp", "EfficientNMS_TRT", "PyramidROIAlign_TRT"}


@pytest.fixture(scope="module")
def typed(stages: Stages) -> tuple[Graph, Context]:
    graph, ctx = stages.after_pass("name-outputs")
    run_unordered([Fp16()], graph, ctx)
    return graph, ctx


def floats(node: gs.Node) -> set[str]:
    tensors = [t for t in [*node.inputs, *node.outputs] if t.name and t.dtype is not None]
    return {np.dtype(t.dtype).name for t in tensors} & {"float16", "float32"}


def test_regions_hold_the_layers_of_a_resnet50_fpn(stages: Stages) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    regions = find_regions(graph, ctx)
    counts: dict[str, int] = {}
    for name in regions.layers:
        counts[name.partition("/")[0]] = counts.get(name.partition("/")[0], 0) + 1
    assert counts == {"backbone": 53, "fpn": 8, "rpn": 15, "box-head": 4, "mask-head": 6}
    assert len(regions.predictors) == 2 * 5 + 2 + 1
    assert regions.chosen("first-conv") == {"backbone/0"}
    assert regions.chosen("fpn+box-head/0") == {f"fpn/{i}" for i in range(8)} | {"box-head/0"}
    assert regions.chosen("mask-head/[12]") == {"mask-head/1", "mask-head/2"}


def test_layers_are_fp16_and_coordinates_and_scores_fp32(typed: tuple[Graph, Context]) -> None:
    graph, ctx = typed
    regions = find_regions(graph, ctx)
    assert verify_graph(graph) is None
    for node in regions.layers.values():
        assert floats(node) == {"float16"}, node.name
    for node in graph.nodes:
        if node.op in SINGLE or node.name not in regions.of:
            assert node.op == "Cast" or floats(node) <= {"float32"}, node.name
    assert {np.dtype(t.dtype).name for t in [*graph.gs.inputs, *graph.gs.outputs]} == {"float32", "int32"}


def test_weights_are_stored_as_fp16_once(typed: tuple[Graph, Context]) -> None:
    graph, ctx = typed
    layers = find_regions(graph, ctx).layers.values()
    weights = {id(node.inputs[1]): node.inputs[1] for node in layers}
    assert all(isinstance(t, gs.Constant) and t.dtype == np.float16 for t in weights.values())
    assert len(weights) == 53 + 8 + 3 + 4 + 6  # the levels of the RPN share theirs


def test_each_tensor_is_cast_once_and_only_at_the_boundary(typed: tuple[Graph, Context]) -> None:
    graph, _ = typed
    casts = [node for node in graph.nodes if node.op == "Cast" and "float16" in floats(node)]
    sources = [node.inputs[0].name for node in casts]
    assert len(sources) == len(set(sources))
    # the image; 5 levels x (logits, deltas); 4 maps for both poolers; pooled, logits and deltas of boxes; pooled and masks
    assert len(casts) == 1 + 10 + 4 + 3 + 2


def test_detections_stay(typed: tuple[Graph, Context], stages: Stages, tmp_path: Path) -> None:
    graph, ctx = typed
    report = match(stages.detections("name-outputs"), detect(graph, ctx, stages.image, tmp_path), 0.95, 5e-3, 0.02)
    assert report.reference > 3
    assert report.share >= 0.95, str(report)  # boxes at the score threshold come and go


def test_a_second_run_changes_nothing(typed: tuple[Graph, Context]) -> None:
    graph, ctx = typed
    assert not run_unordered([Fp16()], graph, ctx).records[0].changed


def test_named_regions_stay_in_fp32(stages: Stages) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    run_unordered([Fp16(keep="box-head+backbone/0")], graph, ctx)
    assert verify_graph(graph) is None
    for name, node in find_regions(graph, ctx).layers.items():
        kept = name.startswith("box-head") or name == "backbone/0"
        assert floats(node) == ({"float32"} if kept else {"float16"}), name


def test_an_unknown_region_is_refused_with_the_names(stages: Stages) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    with pytest.raises(InputError, match=r"no layer is called 'neck': give first-conv, predictors, backbone.*'mask-head/5'"):
        run_unordered([Fp16(keep="neck")], graph, ctx)


def test_what_bf16_cannot_hold_is_said_of_bf16(stages: Stages) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    heavy = find_regions(graph, ctx).layers["fpn/3"]
    values = np.array(heavy.inputs[1].values)
    values.flat[0] = 3.4e38
    heavy.inputs[1] = gs.Constant("heavy", values)
    run_unordered([Bf16(emulate=True)], graph, ctx)
    assert "fpn/3 stays in fp32: a weight of 3.4e+38 exceeds bf16" in ctx.notes


def test_what_fp16_cannot_hold_stays_in_fp32_and_is_said(stages: Stages) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    layers = find_regions(graph, ctx).layers
    heavy, wide = layers["fpn/3"], layers["backbone/7"]
    values = np.array(heavy.inputs[1].values)
    values.flat[0] = 7e4
    heavy.inputs[1] = gs.Constant("heavy", values)
    ctx.ranges = Ranges({}, {wide.inputs[0].name: 4e4})
    run_unordered([Fp16()], graph, ctx)
    assert verify_graph(graph) is None
    after = find_regions(graph, ctx).layers
    assert floats(after["fpn/3"]) == floats(after["backbone/7"]) == {"float32"}
    assert floats(after["backbone/9"]) == {"float16"}
    assert any(note.startswith("fpn/3 stays in fp32: a weight of 7e+04") for note in ctx.notes)
    assert any(note.startswith("backbone/7 stays in fp32: calibration saw an activation of 4e+04") for note in ctx.notes)


@pytest.mark.parametrize("kind", [Fp16, Bf16])
def test_the_emulation_rounds_every_result(kind: type[Fp16], stages: Stages, tmp_path: Path) -> None:
    """ONNX Runtime computes fp16 nodes in fp32 and rounds nothing between them; the emulation does round."""
    graph, ctx = stages.after_pass("name-outputs")
    run_unordered([kind(emulate=True)], graph, ctx)
    assert verify_graph(graph) is None
    half = [node for node in graph.nodes if kind.storage in [t.dtype for t in (*node.inputs, *node.outputs)]]
    assert {node.op for node in half} == {"Cast"}
    feature = graph.tensor(ctx.spec().rpn.levels[0].logits_tensor).outputs[0].outputs[0].outputs[0].outputs[0]
    graph.gs.outputs.append(feature)
    graph.save(tmp_path / "emulated.onnx")
    values = OrtRunner(tmp_path / "emulated.onnx")({"input_tensor": input_tensor(ctx, stages)})[feature.name]
    assert np.array_equal(values, values.astype(kind.storage).astype(np.float32))
    assert len(np.unique(values)) > 100


def input_tensor(ctx: Context, stages: Stages) -> np.ndarray:
    return feeder(stages.after_pass("name-outputs")[0], ctx)([stages.image])["input_tensor"]


def test_bf16_needs_a_newer_opset_and_leaves_transposed_convolutions(stages: Stages) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    with pytest.raises(PassError, match=r"bf16 needs opset 22.*upgrade-opset\{version=22\}"):
        run_unordered([Bf16()], graph, ctx)
    graph.gs.opset = 22
    run_unordered([Bf16()], graph, ctx)
    for node in find_regions(graph, ctx).layers.values():
        assert floats(node) == ({"float32"} if node.op == "ConvTranspose" else set()), node.name
        if node.op != "ConvTranspose":
            assert {np.dtype(t.dtype).name for t in (*node.inputs, *node.outputs)} == {"bfloat16"}
    assert "precision" in str({n.name for n in graph.nodes if n.op == "Cast"})
