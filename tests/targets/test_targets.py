"""Targets: NVIDIA's real parser and builder (TensorRT for RTX, no GPU needed) and ONNX Runtime."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import pytest
from helpers.target_models import MIXED, RTX, installed, needs_rtx, needs_tensorrt, write

from onnxgraft import targets
from onnxgraft.errors import InputError, TargetError
from onnxgraft.targets import BuilderOptions, OrtRunner
from onnxgraft.targets.trt import devices
from onnxgraft.targets.trt.layers import parse_layers


@needs_rtx
def test_engine_is_built_and_described(conv_net: Path, tmp_path: Path) -> None:
    engine = tmp_path / "new" / "folder" / "net.engine"
    info = RTX.build(conv_net, engine)
    assert engine.stat().st_size == info.engine_bytes > 1000
    assert info.target == "tensorrt-rtx"
    assert re.fullmatch(r"tensorrt_rtx \d+\.\d+.*", info.module)
    assert info.layer_types["correlation"] == {"Float": 2}
    assert info.as_dict()["layers"] == len(info.layers)
    assert [p.name for p in engine.parent.iterdir()] == ["net.engine"]


@needs_rtx
def test_same_input_gives_the_same_bytes(conv_net: Path, tmp_path: Path) -> None:
    RTX.build(conv_net, tmp_path / "a")
    RTX.build(write(tmp_path / "mixed.onnx", MIXED), tmp_path / "between")
    RTX.build(conv_net, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@needs_rtx
def test_layer_types_come_from_the_builder(tmp_path: Path) -> None:
    info = RTX.build(write(tmp_path / "mixed.onnx", MIXED), tmp_path / "e")
    assert info.layer_types["correlation"] == {"Half": 1, "Int8": 1}


@needs_rtx
def test_layers_are_said_to_be_unknown_when_not_asked_for(conv_net: Path, tmp_path: Path) -> None:
    options = BuilderOptions(profiling_verbosity="layer_names_only")
    info = RTX.build(conv_net, tmp_path / "e", options)
    assert info.layers == ()
    assert info.notes == ("no layer types: profilingVerbosity is layer_names_only",)


@needs_rtx
def test_weights_in_an_external_file_are_found(conv_net: Path, tmp_path: Path) -> None:
    RTX.build(conv_net, tmp_path / "inline")
    onnx.save(
        onnx.load(conv_net),
        tmp_path / "external.onnx",
        save_as_external_data=True,
        location="external.bin",
        size_threshold=0,
    )
    RTX.build(tmp_path / "external.onnx", tmp_path / "external")
    assert (tmp_path / "external").read_bytes() == (tmp_path / "inline").read_bytes()


@needs_rtx
def test_timing_cache_is_written_reused_and_called_useless(conv_net: Path, tmp_path: Path) -> None:
    cache = tmp_path / "caches" / "timing.cache"
    first = RTX.build(conv_net, tmp_path / "e", BuilderOptions(timing_cache=cache))
    assert cache.stat().st_size > 0
    again = RTX.build(conv_net, tmp_path / "e", BuilderOptions(timing_cache=cache))
    assert first.notes == again.notes
    assert "ignores it" in first.notes[0]


@needs_rtx
def test_broken_timing_cache_is_replaced(conv_net: Path, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"garbage" * 40)
    RTX.build(conv_net, tmp_path / "e", BuilderOptions(timing_cache=cache))
    assert b"garbage" not in cache.read_bytes()


# -- refusals ----------------------------------------------------------------------------------


def refused(model: Path, tmp_path: Path, provenance: dict[str, str] | None = None) -> str:
    engine = tmp_path / "kept.engine"
    engine.write_bytes(b"before")
    with pytest.raises(TargetError) as caught:
        RTX.build(model, engine, None, provenance)
    assert engine.read_bytes() == b"before"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@needs_rtx
def test_parser_refusal_names_node_op_pass_and_reason(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
        net (float[1,8] x) => (int64[2,N] y) { a = Relu(x) y = NonZero(a) }"""
    model = write(tmp_path / "m.onnx", text, lambda i, op: f"stage/{op}")
    message = refused(model, tmp_path, {"stage/NonZero": "rpn-nms", "stage/Relu": "simplify"})
    assert message.startswith(
        "TensorRT for RTX cannot read NonZero node 'stage/NonZero' (made by pass 'rpn-nms'): "
    )
    assert "NonZero plugin creator version 1 was not found" in message


@needs_rtx
def test_unknown_op_is_refused_without_provenance(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
        net (float[1,8] x) => (float[1,8] y) { y = Frobnicate(x) }"""
    message = refused(write(tmp_path / "m.onnx", text), tmp_path)
    assert message.startswith("TensorRT for RTX cannot read Frobnicate node 'Frobnicate_0': ")
    assert "Plugin not found" in message


@needs_rtx
def test_builder_refusal_names_node_op_and_pass(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
        net (float[1,100,4] x, float[1,1,100] r) => (int64[N,3] y)
        <int64[1] k = {10}> { y = NonMaxSuppression(x, r, k) }"""
    model = write(tmp_path / "m.onnx", text, lambda i, op: "final-nms")
    message = refused(model, tmp_path, {"final-nms": "box-nms"})
    assert message.startswith(
        "TensorRT for RTX cannot build NonMaxSuppression node 'final-nms' (made by pass 'box-nms'):"
    )
    assert "has no runners that implement it" in message


@needs_rtx
def test_builder_refusal_names_the_fp32_matmul_of_turing(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
        net (float[1,16] x, float[16,4] w) => (float[1,4] y) { y = MatMul(x, w) }"""
    model = write(tmp_path / "m.onnx", text)
    options = BuilderOptions(compute_capabilities=("7.5",))
    with pytest.raises(TargetError, match=r"cannot build MatMul node 'MatMul_0': .*FP32 GEMM"):
        RTX.build(model, tmp_path / "e", options)


@needs_rtx
def test_junk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"hello" * 100)
    assert "TensorRT for RTX cannot" in refused(tmp_path / "m.onnx", tmp_path)


@needs_rtx
def test_missing_model_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.onnx is not a file"):
        RTX.build(tmp_path / "gone.onnx", tmp_path / "e")


@needs_rtx
def test_unwritable_output_is_refused_before_the_build(conv_net: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"file/net\.engine cannot be written: "):
        RTX.build(conv_net, tmp_path / "file" / "net.engine")
    with pytest.raises(InputError, match="cannot be written: it is a folder"):
        RTX.build(conv_net, tmp_path)


@needs_tensorrt
def test_tensorrt_builds_on_this_gpu(conv_net: Path, tmp_path: Path) -> None:
    target = targets.get("tensorrt")
    target.build(conv_net, tmp_path / "e")
    feeds = {"x": np.ones((1, 3, 32, 32), np.float32)}
    got = target.runner(tmp_path / "e")(feeds)
    np.testing.assert_allclose(got["y"], OrtRunner(conv_net)(feeds)["y"], atol=0.05)


# -- running -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_gpu")
def test_engine_does_not_run_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed(monkeypatch, "tensorrt_rtx")
    message = r"e\.engine cannot run here: no NVIDIA GPU answers on this machine"
    with pytest.raises(TargetError, match=message):
        RTX.runner(tmp_path / "e.engine")
    assert RTX.can_run() == "no NVIDIA GPU answers on this machine"


@pytest.mark.parametrize(("capability", "runs"), [((8, 9), True), ((12, 1), True), ((9, 0), False)])
def test_rtx_runs_on_the_gpus_it_knows(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], runs: bool
) -> None:
    installed(monkeypatch, "tensorrt_rtx")
    monkeypatch.setattr(devices, "compute_capabilities", lambda: (capability,))
    assert (RTX.can_run() is None) == runs


def test_onnxruntime_runs_a_model(conv_net: Path, tmp_path: Path) -> None:
    target = targets.get("onnxruntime")
    info = target.build(conv_net, tmp_path / "none")
    assert info.engine_bytes == 0
    assert not (tmp_path / "none").exists()
    runner = target.runner(conv_net, threads=1)
    assert (runner.input_names, runner.output_names) == (("x",), ("y",))
    x = np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)
    y = runner({"x": x, "not an input": x})["y"]
    reference = onnx.reference.ReferenceEvaluator(str(conv_net)).run(None, {"x": x})[0]
    np.testing.assert_allclose(y, reference, atol=1e-4)


def test_onnxruntime_threads_and_optimisation_are_set(conv_net: Path) -> None:
    options = OrtRunner(conv_net, threads=2, optimize=False).session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.graph_optimization_level.name == "ORT_DISABLE_ALL"


def test_onnxruntime_refusals_are_one_line(conv_net: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file"):
        OrtRunner(tmp_path / "gone.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(TargetError, match=r"ONNX Runtime cannot load .*junk\.onnx: .+") as caught:
        targets.get("onnxruntime").build(tmp_path / "junk.onnx", tmp_path / "e")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="input x is missing"):
        OrtRunner(conv_net)({})
    with pytest.raises(InputError, match=r"input 'x' is float32 \[2, 2\], the network takes float32 \["):
        OrtRunner(conv_net)({"x": np.ones((2, 2), np.float32)})
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n] x) => (float[a, b] y) <int64[2] shape = {2, 3}> { y = Reshape(x, shape) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "six.onnx")
    with pytest.raises(TargetError, match="ONNX Runtime cannot run the model"):
        OrtRunner(tmp_path / "six.onnx")({"x": np.ones(4, np.float32)})


def test_layer_lines_of_another_form_are_left_out() -> None:
    line = (
        "Name: c [x], LayerType: correlation, Inputs: [ { Name: a, Datatype: Half }], "
        "Constants: [], Outputs: [ { Name: b, Datatype: Float }], TacticName: t, StreamId: 0, "
        "Metadata: [ONNX Layer: /m/conv[0]]\x1f[ONNX Layer: relu][ONNX Layer: q]"
    )
    (layer,) = parse_layers(f"Layers:\n{line}\n\nI/O Tensors:\n Name: x, IOMode: Input")
    assert (layer.name, layer.kind, layer.type) == ("c [x]", "correlation", "Half")
    assert layer.output_types == ("Float",)
    assert layer.onnx_nodes == ("/m/conv[0]", "relu", "q")


def test_layers_tell_the_bytes_of_their_tensors() -> None:
    def tensor(shape: str, kind: str) -> str:
        return f"{{ Name: t, Dimensions: [{shape}], Strides: [9,9], StrideOrder: [1,0], Datatype: {kind}, Format: F }}"

    line = (f"Name: c, LayerType: kgen, Inputs: [ {tensor('2,3', 'Half')}, {tensor('', 'Float')}], "
            f"Constants: [ {tensor('5', 'Int8')}], Outputs: [ {tensor('2,3,4', 'Int64')}], TacticName: t, StreamId: 0, "
            "Metadata: ")  # fmt: skip
    (layer,) = parse_layers(f"Layers:\n{line}")
    assert (layer.read_bytes, layer.written_bytes) == (2 * 6 + 4 + 5, 8 * 24)
