"""The quantize pass on the trained detector at 256x320: structure of the Q/DQ graph, scales, options, detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from helpers.graphs import parse_graph
from helpers.stages import Stages, detect, run_unordered
from helpers.target_models import needs_rtx

from onnxgraft import targets
from onnxgraft.analysis.qdq_placement import find_sites
from onnxgraft.analysis.regions import find_regions
from onnxgraft.driver.compile import compile
from onnxgraft.errors import InputError, PassError, Refusal
from onnxgraft.golden import catalog
from onnxgraft.instruments.verify import verify_graph
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import producer
from onnxgraft.options import Options
from onnxgraft.passes import Fp16, LowerPlugins, Quantize
from onnxgraft.passes.quantize import exact_scales, quantize_weights, refuse_quantized
from onnxgraft.pipeline.context import Context, Ranges
from onnxgraft.quantization import trt_cache
from onnxgraft.quantization.calibrate import prepare
from onnxgraft.quantization.calibration import Calibration
from onnxgraft.quantization.ranges import Provider
from onnxgraft.runtime.comparison import match


@pytest.fixture(scope="module")
def measured(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration of the detector on two small drawn scenes."""
    folder = tmp_path_factory.mktemp("calibration")
    graph, ctx = stages.after_pass("name-outputs")
    provider = Provider("mask_rcnn", folder, limit=2)
    ctx.range_source = provider
    run_unordered([Quantize()], graph, ctx)
    assert provider.calibration is not None
    provider.calibration.save(folder / "calibration.json")
    return folder / "calibration.json"


def quantized(stages: Stages, source: Path, keep: str | None = None, tmp: Path = Path()) -> tuple[Graph, Context]:
    graph, ctx = stages.after_pass("name-outputs")
    ctx.range_source = Provider("mask_rcnn", tmp, source)
    run_unordered([Quantize(keep=keep) if keep else Quantize()], graph, ctx)
    return graph, ctx


def reads_int8(node: gs.Node) -> bool:
    """Both the activation and the weights come dequantized."""
    return all((p := producer(t)) is not None and p.op == "DequantizeLinear" for t in node.inputs[:2])


def scale_of(tensor: gs.Tensor) -> np.ndarray:
    node = producer(tensor)
    assert node is not None
    return np.asarray(node.inputs[1].values)


def test_all_layers_but_the_kept_ones_read_int8(stages: Stages, measured: Path) -> None:
    graph, ctx = quantized(stages, measured)
    assert verify_graph(graph) is None
    regions = find_regions(graph, ctx)
    kept = {"backbone/0"} | regions.predictors
    assert {name for name, node in regions.layers.items() if not reads_int8(node)} == kept
    for node in graph.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            assert node.name in regions.of, f"{node.name} lies outside the network"
            assert not np.asarray(node.inputs[2].values).any()
            assert node.inputs[2].dtype == np.int8
    readers = [c for node in graph.nodes if node.op == "DequantizeLinear" for c in node.outputs[0].outputs]
    allowed = {"Conv", "ConvTranspose", "Gemm", "Add", "MaxPool", "Resize", "Flatten", "Reshape"}
    assert {node.op for node in readers} <= allowed


def test_one_operand_of_each_skip_connection_is_int8(stages: Stages, measured: Path) -> None:
    graph, ctx = quantized(stages, measured)
    regions = find_regions(graph, ctx)
    adds = [node for node in graph.nodes if node.op == "Add" and regions.of.get(node.name) in ("backbone", "fpn")]
    assert len(adds) == 16 + 3
    for add in adds:
        made = sorted(node.op for t in add.inputs if (node := producer(t)) is not None)
        assert made == ["Conv", "DequantizeLinear"], add.name


def test_the_same_values_have_the_same_scale(stages: Stages, measured: Path) -> None:
    graph, _ = quantized(stages, measured)
    seen = 0
    for node in graph.nodes:
        source = producer(node.inputs[0]) if node.op in ("MaxPool", "Resize") else None
        if source is None or source.op != "DequantizeLinear":
            continue
        (again,) = {c.name: c for c in node.outputs[0].outputs}.values()
        assert again.op == "QuantizeLinear"
        assert np.array_equal(scale_of(node.inputs[0]), np.asarray(again.inputs[1].values))
        seen += 1
    assert seen == 4  # the top block's MaxPool, and the Resize of three levels


def test_weights_have_a_scale_per_output_channel(stages: Stages, measured: Path) -> None:
    before, context = stages.after_pass("name-outputs")
    plain = find_regions(before, context).layers
    graph, ctx = quantized(stages, measured)
    axes = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0}
    for name, node in find_regions(graph, ctx).layers.items():
        if not reads_int8(node):
            continue
        dq = producer(node.inputs[1])
        assert dq is not None
        levels, scales = np.asarray(dq.inputs[0].values), np.asarray(dq.inputs[1].values)
        axis = dq.attrs["axis"]
        assert axis == axes[node.op]
        assert levels.dtype == np.int8
        assert levels.min() >= -127
        shape = [-1 if i == axis else 1 for i in range(levels.ndim)]
        error = np.abs(levels * scales.reshape(shape) - np.asarray(plain[name].inputs[1].values))
        assert (error <= 0.5001 * scales.reshape(shape)).all(), name


def test_detections_stay_near(stages: Stages, measured: Path, tmp_path: Path) -> None:
    graph, ctx = quantized(stages, measured)
    run_unordered([Fp16()], graph, ctx)
    assert verify_graph(graph) is None
    report = match(stages.detections("name-outputs"), detect(graph, ctx, stages.image, tmp_path), 0.75, 0.15, 0.1)
    assert report.share >= 0.5, str(report)  # most of them score little; int8 is judged by its AP


def test_options_keep_regions_higher(stages: Stages, measured: Path) -> None:
    graph, ctx = quantized(stages, measured, "backbone+rpn+mask-head/4")
    layers = find_regions(graph, ctx).layers
    assert not any(reads_int8(n) for name, n in layers.items() if name.startswith(("backbone", "rpn")))
    assert not reads_int8(layers["mask-head/4"])
    assert reads_int8(layers["fpn/0"])
    graph, ctx = quantized(stages, measured, "none")
    assert all(reads_int8(node) for node in find_regions(graph, ctx).layers.values())


def test_a_tensorrt_cache_gives_the_scales(stages: Stages, measured: Path, tmp_path: Path) -> None:
    held = Calibration.load(measured)
    cache = tmp_path / "calibration.cache"
    names = sorted(held.tensors)
    dropped = next(n for n in names if "res4.3/Relu_1" in n)
    trt_cache.write({name: 254.0 for name in names if name != dropped}, cache)
    graph, ctx = quantized(stages, cache)
    assert verify_graph(graph) is None
    scales = {float(np.asarray(n.inputs[1].values)) for n in graph.nodes if n.op == "QuantizeLinear"}
    assert scales == {2.0}
    assert any(f"lacks 1 tensors ('{dropped}')" in note for note in ctx.notes)
    reader = next(n for n in graph.nodes if n.op == "Conv" and n.inputs[0].name == dropped)
    assert isinstance(reader.inputs[1], gs.Constant)
    trt_cache.write({"conv1": 1.0}, cache)
    with pytest.raises(InputError, match="has none of this network's tensors"):
        quantized(stages, cache)


def test_a_dead_tensor_leaves_its_reader_unquantized(stages: Stages) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    dead = find_regions(graph, ctx).layers["box-head/1"].inputs[0].name

    names = [name for group in find_sites(graph, find_regions(graph, ctx), set()).groups() for name in group]
    ctx.range_source = Ranges({name: 0.0 if name == dead else 1.0 for name in names})
    run_unordered([Quantize()], graph, ctx)
    assert verify_graph(graph) is None
    layers = find_regions(graph, ctx).layers
    assert isinstance(layers["box-head/1"].inputs[1], gs.Constant)
    assert reads_int8(layers["box-head/0"])
    assert any("was zero on every calibration image" in note for note in ctx.notes)


def test_dead_channels_and_tiny_weights_have_usable_scales() -> None:
    weights = np.array([[0, 0], [1e-9, -1e-9], [3, -6]], np.float32)
    levels, scales = quantize_weights(weights, 0)
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    assert levels.tolist() == [[0, 0], [0, 0], [63, -127]]
    assert np.array_equal(scales, scales.astype(np.float16).astype(np.float32))


def test_scales_are_fp16_numbers_and_never_clip() -> None:
    amax = np.abs(np.random.default_rng(0).normal(size=1000)).astype(np.float32) * np.float32(10)
    scales = exact_scales(amax)
    assert np.array_equal(scales, scales.astype(np.float16).astype(np.float32))
    assert (scales * 127 >= amax * (1 - 1e-6)).all()
    assert (scales * 127 <= amax * (1 + 2e-3)).all()


def test_int8_without_calibration_is_refused(stages: Stages, tmp_path: Path) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    with pytest.raises(PassError, match="int8 needs calibration: give images"):
        run_unordered([Quantize()], graph, ctx)
    ctx.range_source = Provider("some/model.onnx", tmp_path)
    with pytest.raises(PassError, match="int8 needs calibration images: give --calib DIR"):
        run_unordered([Quantize()], graph, ctx)


def test_a_calibration_of_another_network_is_refused(stages: Stages, measured: Path, tmp_path: Path) -> None:
    text = measured.read_text()
    other = tmp_path / "calibration.json"
    held = Calibration.load(measured)
    other.write_text(text.replace(held.key.graph, "0" * 32))
    with pytest.raises(InputError, match="does not belong to this build: it was made for another network"):
        quantized(stages, other)
    other.write_text(text.replace('"shortest_edge": 800', '"shortest_edge": 640'))
    with pytest.raises(InputError, match="made with shortest_edge 640, this build has 800"):
        quantized(stages, other)
    other.write_text(text[:3000])
    with pytest.raises(InputError, match="truncated"):
        quantized(stages, other)
    with pytest.raises(InputError, match="no such folder of images or calibration file"):
        quantized(stages, tmp_path / "absent")


def test_a_model_that_is_quantized_already_is_refused() -> None:
    graph = parse_graph("""<ir_version: 8, opset_import: ["" : 19]>
        agraph (float[4] x) => (float[4] y) <float s = {0.5}, int8 z = {0}> {
            q = QuantizeLinear(x, s, z)
            y = DequantizeLinear(q, s, z)
        }""")
    with pytest.raises(Refusal, match="quantized already"):
        refuse_quantized(graph)


def engine_layers(graph: Graph, ctx: Context, folder: Path, steps: Sequence[object]) -> dict[str, dict[str, int]]:
    run_unordered([*steps, LowerPlugins(target="tensorrt-rtx", roi_sampling="fixed2")], graph, ctx)  # type: ignore[list-item]
    graph.save(folder / "model.onnx")
    options = targets.BuilderOptions(builder_optimization_level=0)
    return targets.get("tensorrt-rtx").build(folder / "model.onnx", folder / "model.engine", options, {}).layer_types


@needs_rtx
def test_rtx_builds_int8_layers(stages: Stages, measured: Path, tmp_path: Path) -> None:
    graph, ctx = quantized(stages, measured)
    layers = engine_layers(graph, ctx, tmp_path, [Fp16()])
    assert layers["correlation"] == {"Half": 1 + 10 + 1, "Int8": 81 - 12}
    assert layers["gemm"]["Int8"] == 2


@needs_rtx
def test_rtx_builds_fp16_layers(stages: Stages, tmp_path: Path) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    layers = engine_layers(graph, ctx, tmp_path, [Fp16()])
    assert layers["correlation"] == {"Half": 81}
    assert layers["deconv"] == {"Half": 1}


def test_bad_method_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'best' is not one of"):
        Provider("mask_rcnn", tmp_path, method="best")


def test_the_shipped_calibration_fits_the_golden_graph() -> None:
    held = Calibration.load(catalog.folder("mask_rcnn") / "calibration.json")
    prepared = prepare("mask_rcnn")
    assert prepared.key.difference(held.key) is None
    assert set(prepared.names) == set(held.tensors)
    assert len(held.pictures) == 100


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_rtx_builds_the_full_size_graph(precision: str, tmp_path: Path) -> None:
    options = Options(precision=precision, size=(128, 128), roi_sampling="fixed2", target="tensorrt-rtx", checks=False,
                      proof=False, builder_optimization_level=0, calib_images=1 if precision == "int8" else None)  # fmt: skip
    info = compile("mask_rcnn_R_50_FPN_3x", tmp_path / "out", options).manifest.engine_info
    assert info is not None
    layers = info["layer_types"]
    convolutions = layers["correlation"]
    assert set(convolutions) == ({"Half"} if precision == "fp16" else {"Half", "Int8"})
    assert convolutions["Half" if precision == "fp16" else "Int8"] > 50
