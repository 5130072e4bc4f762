"""fit-release: every delivered golden graph is held against what NVIDIA's parser of each release takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from helpers.graphs import parse_graph
from helpers.members import MEMBERS, meta, picture
from PIL import Image

from onnxgraft.driver.compile import compile
from onnxgraft.errors import InputError, PassError, Refusal
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ort import open_session
from onnxgraft.ir.shape_inference import infer_shapes
from onnxgraft.options import CompileOptions, Options, Size
from onnxgraft.passes import FitRelease
from onnxgraft.passes.default import default_pipeline
from onnxgraft.passes.fit_release import _pair
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.feeds import Feeder
from onnxgraft.runtime.session import Session

RELEASES = ("8.5", "8.6", "10.0", "10.3", "10.16", "11.4")
TURNS = ("8.5", "10.0", "11.4")  # where the lists of operators change
MADE_OF_OTHERS = {"cascade_gn_dconv_thin", "cascade_mask_rcnn_thin", "mask_rcnn_dconv_modulated_thin", "panoptic_fpn_thin",
                  "mask_rcnn_DC5_thin", "faster_rcnn_C4_thin", "rpn_C4_thin"}  # parts that members beside them have
CASES = [*((name, "plugin") for name in MEMBERS), *((name, "native") for name in MEMBERS if name not in MADE_OF_OTHERS)]
DEFORMABLE = [name for name in MEMBERS if "dconv" in name]


def fitted(path: Path, release: str, ctx: Context | None = None) -> Graph:
    graph = Graph.load(path)
    FitRelease(release=release).run(graph, ctx or Context())
    return graph


def loops(graph: Graph) -> bool:
    return any(node.op == "Loop" for node in graph.nodes)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_every_golden_graph_fits_every_release(name: str, form: str, tmp_path: Path) -> None:
    """But for deformable convolution in 8.5, which has no plugin for it: refused, with the node."""
    _, height, width = meta(name)["input"]["shape"]
    native = "native" if form == "native" else "auto"
    options = CompileOptions(size=Size(height, width), nms=native, roi_align=native, deform_conv=native)
    graph = Graph.load(catalog.resolve(name, tmp_path))
    PassManager(default_pipeline(options, "tensorrt").passes, fingerprints=False).run(graph, Context())
    graph.save(tmp_path / "lowered.onnx")
    for release in RELEASES if (name, form) == ("mask_rcnn_C4_thin", "plugin") else TURNS:
        if release == "8.5" and form == "plugin" and name in DEFORMABLE:
            with pytest.raises(Refusal, match=r"8\.5 has no plugin ModulatedDeformConv2d, which came with 8\.6"):
                fitted(tmp_path / "lowered.onnx", release)
            continue
        made = fitted(tmp_path / "lowered.onnx", release, ctx := Context())
        assert any("gave no engine of a Loop" in note for note in ctx.notes) == (release.startswith("8") and loops(made))
        assert made.gs.opset == (17 if release.startswith("8") else 19)
        if form == "native" and release == "8.5":
            made.save(tmp_path / "fitted.onnx")
            onnx.checker.check_model(str(tmp_path / "fitted.onnx"))
        versions = {n.op: n.attrs["plugin_version"] for n in made.nodes if "plugin_version" in n.attrs}
        assert versions.get("ROIAlign_TRT") in (None, "1" if release in ("8.5", "8.6", "10.0") else "2")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_native_form_for_tensorrt_8_gives_the_same_answers(precision: str, tmp_path: Path) -> None:
    """It is plain ONNX of opset 17, so ONNX Runtime runs it beside the form that a build is proved in."""
    name = "mask_rcnn_C4_thin"
    _, height, width = meta(name)["input"]["shape"]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    onnx_file = catalog.resolve(name, tmp_path)
    from_picture = picture(name)
    Image.fromarray(from_picture[..., ::-1]).save(pictures / "0.png")
    options = Options(
        precision=precision, size=Size(height, width), release="8.6", nms="native", roi_align="native", checks=False,
        proof=False, calib=pictures if precision == "int8" else None,
    )  # fmt: skip
    build = compile(onnx_file, tmp_path / "out", options)
    assert build.manifest.engine is None
    session = Session(tmp_path / "out", engine="onnxruntime")
    feeds = Feeder.of(build.manifest.io, build.manifest.preprocess)([from_picture])
    wanted = session.run_feeds(feeds)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert [o.version for o in model.opset_import] == [17]
    found = dict(zip(wanted, open_session(tmp_path / "out" / "model.onnx").run(list(wanted), dict(feeds)), strict=True))
    if precision == "fp32":
        for key, value in wanted.items():
            np.testing.assert_allclose(found[key], value, atol=1e-3, err_msg=key)
        return
    quantized = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    weights = {i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    assert sum(node.input[0] in weights for node in quantized) > 20, "weights in fp32 with a Q/DQ pair"
    assert "--int8 --fp16 --precisionConstraints=obey" in str(build.manifest.trtexec)
    assert np.isfinite(found["detection_scores"]).all()


def test_weights_that_tensorrt_8_quantizes_itself_come_out_as_they_were() -> None:
    """q(levels * scale) is levels again for every level and scales of all sizes."""
    scales = np.random.default_rng(0).uniform(1e-6, 10, 300).astype(np.float16).astype(np.float32)
    scales = np.maximum(scales, np.float32(2**-14))
    levels = np.broadcast_to(np.arange(-127, 128, dtype=np.int8), (len(scales), 255)).copy()
    held = {"levels": levels, "scales": scales, "zeros": np.zeros(len(scales), np.int8)}
    constants = [gs.Constant(name, values) for name, values in held.items()]
    out = gs.Variable("y", np.float32, list(levels.shape))
    node = gs.Node("DequantizeLinear", "dq", {"axis": 0}, constants, [out])
    graph = Graph(gs.Graph([node], [], [out], opset=17))
    _pair(graph, Context(), node)
    session = ort.InferenceSession(graph.skeleton().model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [n.op for n in graph.nodes] == ["QuantizeLinear", "DequantizeLinear"]
    np.testing.assert_array_equal(session.run(None, {})[0], levels.astype(np.float32) * scales[:, None])


@pytest.mark.parametrize(
    ("body", "release", "reason"),
    [
        ("y = Mish(x)", "8.6", "Mish is not in opset 17, the newest of TensorRT 8.6"),
        ("y = Mish(x)", "11.1", ""),
        ("y = Det(x)", "10.3", "Det: the parser of TensorRT 10.3 does not have it"),
        ("i = Cast <to = 6> (x) s = ReduceSum <keepdims = 1> (i) y = Cast <to = 1> (s)", "8.6",
         "ReduceSum: the parser of TensorRT 8.6 takes FP16, FP32, not INT32"),
        ("i = Cast <to = 6> (x) s = ReduceSum <keepdims = 1> (i) y = Cast <to = 1> (s)", "10.0", ""),
        ("y = Resize <antialias = 1, mode = \"linear\"> (x, , scales)", "8.6", "Resize with antialias 1 is not in opset 17"),
        ("y = Resize <antialias = 0, mode = \"linear\"> (x, , scales)", "8.6", ""),
    ],
)  # fmt: skip
def test_what_a_release_cannot_have_is_refused_with_the_node(body: str, release: str, reason: str, tmp_path: Path) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 19]>
    g (float[1, 2, 4, 4] x) => (float[a, b, c, d] y) <float[4] scales = {{1, 1, 2, 2}}> {{ {body} }}"""
    graph = parse_graph(text)
    infer_shapes(graph)
    if not reason:
        FitRelease(release=release).run(graph, Context())
        return
    with pytest.raises(Refusal) as refused:
        FitRelease(release=release).run(graph, Context())
    assert reason in str(refused.value)
    assert refused.value.node


def test_reductions_and_counts_are_written_as_8_has_them() -> None:
    text = """<ir_version: 8, opset_import: ["" : 19]>
    g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 1] y, int64[1, 2, 4, 1] n) <int64[1] axes = {3}, float zero = {0}> {
        y = ReduceMax <keepdims = 1> (x, axes)
        above = Greater(x, zero)
        whole = Cast <to = 7> (above)
        n = ReduceSum <keepdims = 1> (whole, axes)
    }"""
    graph, before = parse_graph(text), parse_graph(text)
    infer_shapes(graph)
    FitRelease(release="8.6").run(graph, Context())
    graph.cleanup()
    assert graph.gs.opset == 17
    assert next(n for n in graph.nodes if n.op == "ReduceMax").attrs["axes"] == [3]
    x = np.random.default_rng(1).normal(size=(1, 2, 4, 4)).astype(np.float32)
    models = [g.skeleton().model.SerializeToString() for g in (graph, before)]
    found, wanted = (ort.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, {"x": x}) for m in models)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_what_cannot_be_meant_is_refused_before_any_pass(tmp_path: Path) -> None:
    for options, reason in (
        (Options(release="8.6", precision="bf16"), "TensorRT 8.6 has no bf16, which came with 9.0"),
        (Options(release="8.6", target="onnxruntime"), "--for 8.6: is a release of tensorrt"),
        (Options(release="7.1"), "--for '7.1': give a release of TensorRT"),
        (Options(release="8.6", passes="simplify"), "--for has no effect here: give --target tensorrt"),
    ):
        with pytest.raises(InputError) as refused:
            compile("mask_rcnn", tmp_path / "out", options)
        assert str(refused.value).startswith(reason)
    assert not (tmp_path / "out").exists()


def test_bf16_needs_an_opset_that_older_parsers_lack(tmp_path: Path) -> None:
    name = "retinanet_thin"
    _, height, width = meta(name)["input"]["shape"]
    wanted = Options(release="10.3", precision="bf16", size=Size(height, width), checks=False, proof=False)
    with pytest.raises(PassError, match=r"fit-release.*opset 20, the newest of TensorRT 10.3"):
        compile(catalog.resolve(name, tmp_path), tmp_path / "out", wanted)
