"""deform-conv: on small blocks, and on the golden detector with deformed convolutions in its backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import padded
from helpers.deformed import block, deform
from helpers.graphs import node_of, run_graph
from helpers.stages import SIZE, detect, run_unordered, same
from PIL import Image

from onnxgraft.analysis.regions import find_regions, offset_layers
from onnxgraft.driver.compile import compile
from onnxgraft.errors import OnnxgraftError
from onnxgraft.golden import scenes
from onnxgraft.instruments import verify_graph
from onnxgraft.ir.graph import PLUGIN_DOMAIN, Graph
from onnxgraft.options import CompileOptions, Options
from onnxgraft.passes import DeformConv, Fp16, LowerPlugins
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context, Ranges
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.record import PassRecord
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections

PLUGIN = "ModulatedDeformConv2d"
X = {"x": np.random.default_rng(3).normal(size=(2, 4, 6, 7)).astype(np.float32)}


def substituted(graph: Graph) -> PassRecord:
    return run_unordered([DeformConv()], graph, Context()).records[0]


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("native", [False, True])
def test_the_block_computes_the_same(mask: bool, bias: bool, norm: bool, native: bool, tmp_path: Path) -> None:
    (before,) = run_graph(block(mask=mask, bias=bias, norm=norm), X, tmp_path)
    graph = block(mask=mask, bias=bias, norm=norm)
    record = substituted(graph)
    assert record.statistics["deformable convolutions"] == 1
    assert record.statistics.get("batch norms folded", 0) == int(norm)
    node = node_of(graph, PLUGIN)
    assert node.domain == PLUGIN_DOMAIN
    assert len(node.inputs) == 5
    assert node.outputs[0].shape == [2, 4, 6, 7]
    assert verify_graph(graph) is None
    if native:
        run_unordered([LowerPlugins(target="tensorrt-rtx")], graph, Context())
        assert not {n.op for n in graph.nodes} & {PLUGIN, "DeformConv"}
        assert not graph.functions
    (after,) = run_graph(graph, X, tmp_path)
    np.testing.assert_allclose(after, before, atol=2e-5)


@pytest.mark.parametrize(
    "attrs", [{"strides": [2, 2]}, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}, {"pads": [0, 1, 0, 1]}, {"group": 1}]
)
def test_attributes_are_handed_on(attrs: dict[str, list[int]], tmp_path: Path) -> None:
    shape = {"strides": (3, 4), "dilations": (6, 7), "pads": (4, 7), "group": (6, 7)}[next(iter(attrs))]
    graph = block(**attrs)
    node_of(graph, "Conv").attrs.update(attrs)
    for tensor in (node_of(graph, "Conv").outputs[0], graph.gs.outputs[0]):
        tensor.shape = [2, tensor.shape[1] if tensor.shape else 4, *shape]
    (before,) = run_graph(graph, X, tmp_path)
    substituted(graph)
    (after,) = run_graph(graph, X, tmp_path)
    assert after.shape[2:] == shape
    np.testing.assert_allclose(after, before, atol=2e-5)


def test_tensorrt_gets_a_plain_node_with_every_attribute() -> None:
    graph = block(mask=True)
    substituted(graph)
    run_unordered([LowerPlugins(target="tensorrt")], graph, Context())
    node = node_of(graph, PLUGIN)
    assert not node.domain
    assert not graph.functions
    assert node.attrs == {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "group": 1, "deformable_group": 1,
                          "plugin_version": "1"}  # fmt: skip


@pytest.mark.parametrize(("form", "kept"), [("native", 0), ("plugin", 1), ("auto", 1)])
def test_the_form_is_an_option_of_its_own(form: str, kept: int) -> None:
    graph = block()
    substituted(graph)
    run_unordered([LowerPlugins(target="tensorrt", deform_conv=form, nms="native", roi_align="native")], graph, Context())
    assert sum(node.op == PLUGIN for node in graph.nodes) == kept


def test_masks_of_ones_are_shared() -> None:
    graph = block()
    first = node_of(graph, "DeformConv")
    again = first.copy(inputs=list(first.inputs), outputs=[graph.gs.outputs[0].__class__("y2", np.float32, [2, 4, 6, 7])])
    again.name = "bends_again"
    graph.nodes.append(again)
    graph.gs.outputs.append(again.outputs[0])
    substituted(graph)
    a, b = (node for node in graph.nodes if node.op == PLUGIN)
    assert a.inputs[2] is b.inputs[2]
    assert sum(node.op == "Expand" for node in graph.nodes) == 1


def test_a_norm_that_is_not_alone_stays() -> None:
    graph = block(norm=True)
    graph.gs.outputs.append(node_of(graph, "DeformConv").outputs[0])
    assert "batch norms folded" not in {k for k, v in substituted(graph).statistics.items() if v}
    assert node_of(graph, "BatchNormalization").inputs[0] is node_of(graph, PLUGIN).outputs[0]


def test_nothing_happens_without_or_again() -> None:
    graph = block()
    assert substituted(graph).changed
    assert not substituted(graph).changed
    plain = block()
    bent = node_of(plain, "DeformConv")
    bent.op = "Conv"
    bent.inputs.pop()
    plain.cleanup()
    assert not substituted(plain).changed


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [
        ({"strides": [1, 2]}, r"strides \[1, 2\] differ down and across, which ModulatedDeformConv2d cannot say safely"),
        ({"dilations": [2, 1]}, r"dilations \[2, 1\] differ down and across"),
        ({"pads": [1, 1, 0, 1]}, r"pads \[1, 1, 0, 1\] differ between the sides"),
    ],
)
def test_refusals_name_the_node(attrs: dict[str, list[int]], reason: str) -> None:
    with pytest.raises(OnnxgraftError, match=rf"{reason}.*\(node 'bends'\)"):
        substituted(block(**attrs))


def test_refuses_shapes_that_are_not_known() -> None:
    graph = block()
    graph.gs.inputs[0].shape = ["n", 4, 6, 7]
    with pytest.raises(OnnxgraftError, match=r"tensor 'x' of a deformable convolution has no static shape \(node 'bends'\)"):
        substituted(graph)


# -- the golden detector, deformed -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modulated(golden_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("modulated") / "model.onnx"
    deform(golden_model, path)
    return path


@pytest.fixture(scope="module", params=["mask", "no mask"])
def deformed(
    request: pytest.FixtureRequest, golden_model: Path, modulated: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "mask":
        return modulated
    path: Path = tmp_path_factory.mktemp("deformed") / "model.onnx"
    deform(golden_model, path, mask=False)
    return path


def compiled(model: Path, target: str, stop: str = "", **options: object) -> tuple[Graph, Context]:
    graph, ctx = Graph.load(model), Context()
    chosen = CompileOptions(**{"size": SIZE, **options})  # type: ignore[arg-type]
    steps = list(default_pipeline(chosen, target).passes)
    if stop:
        steps = steps[: 1 + next(i for i, step in enumerate(steps) if step.name() == stop)]
    PassManager(steps, fingerprints=False).run(graph, ctx)
    return graph, ctx


@pytest.fixture(scope="module")
def reference(deformed: Path, scene: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Detections:
    """What the deformed export itself detects."""
    graph, ctx = compiled(deformed, "onnxruntime", "fix-input")
    return detect(graph, ctx, scene, tmp_path_factory.mktemp("raw"))


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt-rtx"])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_detector_gives_the_same_answers(
    deformed: Path, reference: Detections, scene: np.ndarray, tmp_path: Path, target: str, batch: int
) -> None:
    graph, ctx = compiled(deformed, target, batch=batch)
    assert len(reference) > 5
    assert sum(node.op == PLUGIN for node in graph.nodes) == (4 if target == "onnxruntime" else 0)
    found = detect(graph, ctx, scene, tmp_path)
    assert match(reference, found).exact, match(reference, found)
    assert same(reference, found, px=5e-3, score=5e-5, mask=2e-3) is None


def test_the_offsets_matter(reference: Detections, golden_model: Path, scene: np.ndarray, tmp_path: Path) -> None:
    graph, ctx = compiled(golden_model, "onnxruntime")
    assert not match(reference, detect(graph, ctx, scene, tmp_path)).exact


def test_what_predicts_offsets_is_a_predictor_and_stays_out_of_int8(modulated: Path) -> None:
    graph, ctx = compiled(modulated, "onnxruntime", "name-outputs")
    regions = find_regions(graph, ctx)
    layers = [layer for node in graph.nodes for layer in offset_layers(node)]
    assert len(layers) == 4
    named = {name for name, node in regions.layers.items() if any(node is layer for layer in layers)}
    assert len(named) == 4
    assert {name.partition("/")[0] for name in named} == {"backbone"}
    assert named < regions.chosen("predictors")


def test_fp16_samples_in_fp32_and_multiplies_in_fp16(modulated: Path) -> None:
    plugin, _ = compiled(modulated, "tensorrt", precision="fp16")
    for node in (n for n in plugin.nodes if n.op == PLUGIN):
        assert {np.dtype(t.dtype).name for t in [*node.inputs, *node.outputs]} == {"float32"}
    native, _ = compiled(modulated, "tensorrt-rtx", precision="fp16")
    products = [n for n in native.nodes if n.op == "MatMul" and "deform" in n.name.lower()]
    assert {np.dtype(t.dtype).name for n in products for t in n.inputs} == {"float16"}
    positions = [n for n in native.nodes if n.op == "Floor" and "deform" in n.name.lower()]
    assert len(positions) == 2 * 4
    assert {np.dtype(n.inputs[0].dtype).name for n in positions} == {"float32"}
    kept, _ = compiled(modulated, "tensorrt-rtx", precision="fp16", keep_fp32="backbone")
    products = [n for n in kept.nodes if n.op == "MatMul" and "deform" in n.name.lower()]
    assert {np.dtype(t.dtype).name for n in products for t in n.inputs} == {"float32"}


def test_fp16_does_not_multiply_what_overflows(modulated: Path) -> None:
    graph, ctx = compiled(modulated, "onnxruntime", "name-outputs")
    bent = node_of(graph, PLUGIN)
    ctx.ranges = Ranges({}, {bent.inputs[0].name: 40_000.0})
    run_unordered([Fp16()], graph, ctx)
    assert {node.name for node in graph.nodes if node.op == PLUGIN} - set(ctx.lowering) == {bent.name}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_tensorrt_rtx_builds_the_detector(modulated: Path, scene: np.ndarray, tmp_path: Path, precision: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(scene[..., ::-1]).save(images / "scene.png")
    calib = images if precision == "int8" else None
    options = Options(target="tensorrt-rtx", precision=precision, size=SIZE, checks=False, proof=False, calib=calib)
    build = compile(modulated, tmp_path / "build", options)
    assert build.manifest.sizes["model.engine"] > 0
    products = [n for n in Graph.load(tmp_path / "build" / "model.onnx").nodes if n.op == "MatMul" and PLUGIN in n.name]
    assert len(products) == 4


def test_the_canvas_does_not_matter_with_exact_padding(modulated: Path, tmp_path: Path) -> None:
    picture = scenes.draw(3_000_000_001, padded.TRUE)[0]
    alone = padded.detect(modulated, tmp_path, picture, (256, 320), False, "onnxruntime")
    assert len(alone) > 5
    assert match(alone, padded.detect(modulated, tmp_path, picture, (416, 384), True, "onnxruntime")).exact
    assert not match(alone, padded.detect(modulated, tmp_path, picture, (416, 384), False, "onnxruntime")).exact


def test_exact_padding_masks_what_deformable_convolutions_read(modulated: Path) -> None:
    graph, _ = compiled(modulated, "onnxruntime", "mask-padding", image_sizes=True, exact_padding=True)
    bent = [node for node in graph.nodes if node.op == "DeformConv"]
    assert len(bent) == 4
    assert {node.inputs[0].inputs[0].op for node in bent} == {"Where"}
