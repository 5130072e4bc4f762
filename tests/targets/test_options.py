"""Options of the builders, and the choice of a target."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.target_models import RTX, installed, needs_rtx

import onnxgraft
from onnxgraft import Options, targets
from onnxgraft.errors import InputError, TargetError
from onnxgraft.plugins import REGISTRY
from onnxgraft.targets import BuilderOptions
from onnxgraft.targets.traits import TRAITS
from onnxgraft.targets.trt import devices, dialect
from onnxgraft.targets.trt.builder import build, configure

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
        ({"builder_optimization_level": 9}, "--builderOptimizationLevel is 9: give 0 to 5"),
        ({"workspace": 0}, "--memPoolSize is 0: give more than 0"),
        ({"hardware_compatibility_level": "hopper"}, "--hardwareCompatibilityLevel: 'hopper' is not one of none, ampere+"),
        ({"profiling_verbosity": "loud"}, "--profilingVerbosity: 'loud' is not one of none"),
    ],
)
def test_option_outside_its_range_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        BuilderOptions(**values)  # type: ignore[arg-type]


@needs_rtx
@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ((), "'current' is that of this machine's GPU: no NVIDIA GPU answers"),
        (((9, 0),), "'current' is 9.0 here, which no engine would load on: give some of 75, 80, 86, 89, 120"),
    ],
)
def test_a_gpu_that_rtx_does_not_know_is_not_built_for(
    conv_net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: tuple[tuple[int, int], ...], message: str
) -> None:
    monkeypatch.setattr(devices, "compute_capabilities", lambda: gpus)
    monkeypatch.setattr(devices, "no_gpu", lambda: "no NVIDIA GPU answers on this machine")
    with pytest.raises(TargetError, match=re.escape(message)):
        build(dialect.TENSORRT_RTX, RTX.name, conv_net, tmp_path / "e", BuilderOptions(compute_capabilities=("current",)), {})
    assert not (tmp_path / "e").exists()


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
    assert not any(RTX.traits.has(plugin) for plugin in REGISTRY.values())
    taken = {op: targets.get("tensorrt").traits.has(plugin) for op, plugin in REGISTRY.items()}
    assert taken.pop("UncappedNMS") is False
    assert all(taken.values())
    assert all(targets.get(name).traits is TRAITS[name] for name in TRAITS)
    assert set(TRAITS) == {*targets.names()} - {"auto"}
    with pytest.raises(InputError, match=r"no target 'openvino': give one of tensorrt, .*auto"):
        targets.get("openvino")


def test_missing_module_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    tensorrt = targets.get("tensorrt")
    monkeypatch.setattr(importlib, "import_module", absent)
    assert tensorrt.available() == "the module tensorrt is not installed: pip install 'onnxgraft[tensorrt]'"
    with pytest.raises(TargetError, match="the module tensorrt is not installed"):
        tensorrt.build(Path("m.onnx"), Path("e"))


def test_module_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        raise ImportError("libnvinfer.so.10: cannot open\nshared object file")

    tensorrt = targets.get("tensorrt")
    monkeypatch.setattr(importlib, "import_module", broken)
    assert tensorrt.available() == (
        "the module tensorrt does not load: libnvinfer.so.10: cannot open shared object file"
    )


def test_an_engine_that_cannot_be_built_is_refused_before_anything_runs(golden_model: Path, tmp_path: Path) -> None:
    target = targets.get("tensorrt")
    if target.available() is None:
        pytest.skip("TensorRT builds here")
    told: list[str] = []
    with pytest.raises(TargetError) as refused:
        onnxgraft.compile(golden_model, tmp_path / "out", Options(target="tensorrt"), progress=told.append)
    wanted = "; or give --no-engine: model.onnx, and the command that builds it elsewhere (--for 10.3 for another release)"
    assert str(refused.value) == f"{target.available()}{wanted}"
    assert (told, list(tmp_path.iterdir())) == ([], [])
