"""Targets: NVIDIA's real parser and builder (TensorRT for RTX, no GPU needed) and ONNX Runtime."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import pytest

from onnxgraft import targets
from onnxgraft.errors import InputError, TargetError
from onnxgraft.targets import BuilderOptions, OrtRunner, devices, dialect
from onnxgraft.targets.builder import configure
from onnxgraft.targets.layers import parse_layers

RTX = targets.get("tensorrt-rtx")
needs_rtx = pytest.mark.skipif(RTX.available() is not None, reason=str(RTX.available()))
needs_tensorrt = pytest.mark.skipif(
    targets.get("tensorrt").available() is not None,
    reason=str(targets.get("tensorrt").available()),
)

CONV_NET = """
    <ir_version: 9, opset_import: ["" : 17]>
    net (float[1,3,32,32] x) => (float[1,8,16,16] y)
    {
        a = Conv<pads = [1,1,1,1]>(x, w1)
        b = Relu(a)
        y = Conv<pads = [1,1,1,1], strides = [2,2]>(b, w2)
    }
"""
MIXED = """
    <ir_version: 9, opset_import: ["" : 19]>
    net (float[1,16,64,64] x) => (float[1,16,64,64] y)
    <float s = {0.1}, int8 z = {0}>
    {
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wq = QuantizeLinear(w1, s, z)
        wd = DequantizeLinear(wq, s, z)
        a = Conv<pads = [1,1,1,1]>(xd, wd)
        b = Relu(a)
        bh = Cast<to = 10>(b)
        wh = Cast<to = 10>(w2)
        c = Conv<pads = [1,1,1,1]>(bh, wh)
        y = Cast<to = 1>(c)
    }
"""
WEIGHTS = {CONV_NET: ((8, 3, 3, 3), (8, 8, 3, 3)), MIXED: ((16, 16, 3, 3), (16, 16, 3, 3))}


def write(path: Path, text: str, names: Callable[[int, str], str] = "{1}_{0}".format) -> Path:
    model = onnx.parser.parse_model(text)
    for index, node in enumerate(model.graph.node):
        node.name = names(index, node.op_type)
    random = np.random.default_rng(0)
    for name, shape in zip(("w1", "w2"), WEIGHTS.get(text, ()), strict=False):
        array = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


@pytest.fixture
def conv_net(tmp_path: Path) -> Path:
    return write(tmp_path / "net.onnx", CONV_NET)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "compute_capabilities", tuple)


# -- TensorRT for RTX --------------------------------------------------------------------------


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
    assert info.types_of({"Conv_4"}) == {"Int8": 1}
    assert info.types_of({"Conv_8"}) == {"Half": 1}


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


# -- options -----------------------------------------------------------------------------------


@needs_rtx
def test_options_reach_the_builder_configuration() -> None:
    trt = dialect.TENSORRT_RTX.load()
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    options = BuilderOptions(
        workspace=512,
        builder_optimization_level=2,
        compute_capabilities=("8.9", "120"),
        version_compatible=True,
        no_tf32=True,
    )
    configure(trt, dialect.TENSORRT_RTX, config, options)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 512 * 2**20
    assert config.builder_optimization_level == 2
    found = [config.get_compute_capability(i) for i in range(config.num_compute_capabilities)]
    assert found == [trt.ComputeCapability.SM89, trt.ComputeCapability.SM120]
    flags = trt.BuilderFlag
    assert config.get_flag(flags.VERSION_COMPATIBLE)
    assert config.get_flag(flags.EXCLUDE_LEAN_RUNTIME)  # this package ships none
    assert not config.get_flag(flags.TF32)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


def test_options_of_tensorrt_reach_its_configuration() -> None:
    """A stand-in module that has the names of the real bindings of TensorRT 10 and 11."""
    flags = SimpleNamespace(STRIP_PLAN="strip", REFIT="refit", VERSION_COMPATIBLE="vc")
    trt = SimpleNamespace(
        BuilderFlag=flags,
        ProfilingVerbosity=SimpleNamespace(NONE="none"),
        HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="ampere"),
    )
    given: list[str] = []
    config = SimpleNamespace(set_flag=given.append)
    options = BuilderOptions(
        strip_weights=True,
        refit=True,
        version_compatible=True,
        hardware_compatibility_level="ampere+",
        profiling_verbosity="none",
    )
    configure(trt, dialect.TENSORRT, config, options)  # type: ignore[arg-type]
    assert sorted(given) == ["refit", "strip", "vc"]
    assert config.hardware_compatibility_level == "ampere"
    assert config.profiling_verbosity == "none"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"builder_optimization_level": 9}, "builderOptimizationLevel is 9: give 0 to 5"),
        ({"workspace": 0}, "memPoolSize workspace is 0 MiB"),
        ({"hardware_compatibility_level": "hopper"}, "hardwareCompatibilityLevel is 'hopper'"),
        ({"profiling_verbosity": "loud"}, "profilingVerbosity is 'loud'"),
    ],
)
def test_option_outside_its_range_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        BuilderOptions(**values)  # type: ignore[arg-type]


@needs_rtx
@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuilderOptions(strip_weights=True), "only on a GPU: no NVIDIA GPU answers"),
        (BuilderOptions(hardware_compatibility_level="ampere+"), "give computeCapabilities"),
        (BuilderOptions(compute_capabilities=("9.0",)), "'9.0' is not known: give some of 75, 80"),
    ],
)
def test_what_rtx_lacks_is_refused(
    conv_net: Path, tmp_path: Path, options: BuilderOptions, message: str
) -> None:
    with pytest.raises((TargetError, InputError), match=re.escape(message)):
        RTX.build(conv_net, tmp_path / "e", options)


def test_tensorrt_refuses_compute_capabilities() -> None:
    with pytest.raises(TargetError, match="builds for the GPU of this machine"):
        dialect.TENSORRT.check(BuilderOptions(compute_capabilities=("8.9",)))


def test_trtexec_lines() -> None:
    options = BuilderOptions(
        workspace=1024,
        builder_optimization_level=5,
        timing_cache=Path("t.cache"),
        strip_weights=True,
        refit=True,
        version_compatible=True,
        hardware_compatibility_level="ampere+",
        no_tf32=True,
    )
    line = targets.get("tensorrt").trtexec_line(Path("my model.onnx"), Path("e"), options)
    assert line is not None
    assert shlex.split(line) == [
        "trtexec",
        "--onnx=my model.onnx",
        "--saveEngine=e",
        "--stronglyTyped",
        "--skipInference",
        "--memPoolSize=workspace:1024",
        "--builderOptimizationLevel=5",
        "--timingCacheFile=t.cache",
        "--hardwareCompatibilityLevel=ampere+",
        "--versionCompatible",
        "--stripWeights",
        "--refit",
        "--noTF32",
        "--profilingVerbosity=detailed",
    ]
    rtx = BuilderOptions(compute_capabilities=("7.5", "89"), profiling_verbosity="layer_names_only")
    assert RTX.trtexec_line(Path("m.onnx"), Path("e"), rtx) == (
        "tensorrt_rtx --onnx=m.onnx --saveEngine=e --skipInference --computeCapabilities=75,89"
    )
    assert targets.get("onnxruntime").trtexec_line(Path("m.onnx"), Path("e")) is None


# -- choosing a target -------------------------------------------------------------------------


def installed(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    def missing(self: dialect.Dialect) -> str | None:
        return None if self.module in modules else f"no {self.module}"

    monkeypatch.setattr(dialect.Dialect, "missing", missing)


def test_auto_takes_tensorrt_where_a_gpu_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "tensorrt", "tensorrt_rtx")
    monkeypatch.setattr(devices, "compute_capabilities", lambda: ((8, 9),))
    assert targets.auto()[0].name == targets.get("auto").name == "tensorrt"


@pytest.mark.usefixtures("no_gpu")
def test_auto_takes_rtx_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "tensorrt", "tensorrt_rtx")
    target, reason = targets.auto()
    assert target.name == "tensorrt-rtx"
    assert reason == "not tensorrt: no NVIDIA GPU answers on this machine"


def test_auto_takes_onnxruntime_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    target, reason = targets.auto()
    assert target.name == "onnxruntime"
    assert reason == "not tensorrt: no tensorrt; not tensorrt-rtx: no tensorrt_rtx"


def test_names_and_unknown_name() -> None:
    assert targets.names() == ("tensorrt", "tensorrt-rtx", "onnxruntime", "auto")
    assert RTX.plugins == frozenset()
    assert "EfficientNMS_TRT" in targets.get("tensorrt").plugins
    with pytest.raises(InputError, match=r"no target 'openvino': give one of tensorrt, .*auto"):
        targets.get("openvino")


def test_missing_module_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    reason = targets.get("tensorrt").available()
    assert reason == "the module tensorrt is not installed: pip install 'onnxgraft[tensorrt]'"
    with pytest.raises(TargetError, match="the module tensorrt is not installed"):
        targets.get("tensorrt").build(Path("m.onnx"), Path("e"))


def test_module_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        raise ImportError("libnvinfer.so.10: cannot open\nshared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    reason = targets.get("tensorrt").available()
    assert reason == (
        "the module tensorrt does not load: libnvinfer.so.10: cannot open shared object file"
    )


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
    with pytest.raises(TargetError, match="ONNX Runtime cannot run the model"):
        OrtRunner(conv_net)({"x": np.ones((2, 2), np.float32)})


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
