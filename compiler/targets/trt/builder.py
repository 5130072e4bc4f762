"""One builder for every TensorRT package: ONNX file in, engine file out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxgraft.errors import InputError, TargetError
from onnxgraft.files import check_writable, write_atomically
from onnxgraft.options import BuilderOptions
from onnxgraft.targets.engine_info import EngineInfo
from onnxgraft.targets.trt import devices
from onnxgraft.targets.trt.dialect import Dialect
from onnxgraft.targets.trt.layers import parse_layers
from onnxgraft.targets.trt.messages import Culprit, build_refusal, collected, logger_of, parser_refusal

_LEVEL = {
    "none": "NONE",
    "ampere+": "AMPERE_PLUS",
    "sameComputeCapability": "SAME_COMPUTE_CAPABILITY",
}
_CURRENT = "CURRENT"  # a compute capability: that of this machine's GPU
_LATER = 12  # the major compute capability from which an engine loads on GPUs that are not named


def build(
    dialect: Dialect,
    target: str,
    model: Path,
    engine: Path,
    options: BuilderOptions,
    provenance: Mapping[str, str],
) -> EngineInfo:
    """Parse the file, build, and write the engine; see Target.build for what is raised.

    A fresh Builder per call: with it the same file and options give the same bytes, also within
    one process; a Builder that is used again numbers its kernels on. It is long because all of it
    happens while the log is collected, around objects that must outlive each other.
    """
    trt = dialect.load()
    notes = list(dialect.check(options))
    if not model.is_file():
        raise InputError(f"{model} is not a file: give the ONNX model to build")
    for output in (engine, options.timing_cache):
        if output is not None:
            check_writable(output)
    with collected(trt) as log, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if dialect.registers_plugins:
            trt.init_libnvinfer_plugins(logger_of(trt), "")
        builder = trt.Builder(logger_of(trt))
        network = builder.create_network(network_flags(trt, dialect))
        parser = trt.OnnxParser(network, logger_of(trt))
        started = time.perf_counter()
        if not parser.parse_from_file(str(model)):
            raise refusal(dialect, "cannot read", *parser_refusal(parser, log), provenance)
        parsed = time.perf_counter()
        config = builder.create_builder_config()
        configure(trt, dialect, config, options)
        if options.timing_cache is not None:
            notes += load_timing_cache(config, options.timing_cache)
        log.errors.clear()  # a timing cache asks for the GPU, which need not be there
        serialized = builder.build_serialized_network(network, config)
        built = time.perf_counter()
        if serialized is None:
            raise refusal(dialect, "cannot build", *build_refusal(network, model, log), provenance)
        if options.timing_cache is not None:
            write_atomically(options.timing_cache, memoryview(config.get_timing_cache().serialize()))
    layers = parse_layers(log.layers)
    if not layers:
        notes.append(no_layers_reason(options))
    write_atomically(engine, memoryview(serialized))
    return EngineInfo(
        target=target,
        module=dialect.version(),
        engine_bytes=int(serialized.nbytes),
        parse_seconds=parsed - started,
        build_seconds=built - parsed,
        layers=layers,
        notes=tuple(notes),
    )


def network_flags(trt: ModuleType, dialect: Dialect) -> int:
    """The bits for create_network: strongly typed wherever the flag is known."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if flag is None:
        if dialect.strongly_typed_flag and int(trt.__version__.split(".")[0]) < 10:
            raise TargetError(
                f"{dialect.label} {trt.__version__} has no strongly typed networks: "
                "install 10.10 or later"
            )
        return 0
    return 1 << int(flag)


def configure(trt: ModuleType, dialect: Dialect, config: Any, options: BuilderOptions) -> None:
    """Carry the options over to the builder's configuration."""
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * 2**20))
    if options.builder_optimization_level is not None:
        config.builder_optimization_level = options.builder_optimization_level
    verbosity = options.profiling_verbosity.upper()
    config.profiling_verbosity = getattr(trt.ProfilingVerbosity, verbosity)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if not dialect.lean_runtime:
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.no_tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if dialect.hardware_compatibility and options.hardware_compatibility_level != "none":
        level = _LEVEL[options.hardware_compatibility_level]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.compute_capabilities:
        set_compute_capabilities(trt, config, options.compute_capabilities)


def set_compute_capabilities(trt: ModuleType, config: Any, names: tuple[str, ...]) -> None:
    """Name the GPUs to build for: "75" or "7.5" is Turing, "current" the GPU of this machine."""
    known = {
        name.removeprefix("SM"): value for name, value in trt.ComputeCapability.__members__.items()
    }
    known.pop("NONE", None)
    wanted = [name.upper().replace(".", "").removeprefix("SM") for name in names]
    for name, key in zip(names, wanted, strict=True):
        if key not in known:
            choices = ", ".join(sorted(known, key=_order))
            raise InputError(f"compute capability {name!r} is not known: give some of {choices}")
        if key == _CURRENT:
            _check_current(name, known)
    config.num_compute_capabilities = len(wanted)
    for index, key in enumerate(wanted):
        if not config.set_compute_capability(known[key], index):
            raise TargetError(f"compute capability {names[index]!r} was not accepted")


def _check_current(name: str, known: Mapping[str, Any]) -> None:
    """Raises TargetError where this machine's GPU is none that the package knows: its builder would say nothing and make an
    engine that no GPU loads."""
    found = devices.compute_capabilities()
    if not found:
        raise TargetError(f"compute capability {name!r} is that of this machine's GPU: {devices.no_gpu()}")
    major, minor = found[0]
    if f"{major}{minor}" not in known and major < _LATER:
        choices = ", ".join(sorted(known.keys() - {_CURRENT}, key=_order))
        raise TargetError(f"compute capability {name!r} is {major}.{minor} here, which no engine would load on: "
                          f"give some of {choices}, or leave the option out")  # fmt: skip


def _order(name: str) -> tuple[bool, int]:
    return (not name.isdigit(), int(name) if name.isdigit() else 0)


def load_timing_cache(config: Any, path: Path) -> list[str]:
    """Start from the cache file when there is one; notes that say when it was of no use."""
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(
            f"timing cache {path} cannot be read: {error.strerror or error}"
        ) from error
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        return [f"timing cache {path} is of another GPU or version: started anew"]
    return []


def refusal(
    dialect: Dialect, verb: str, culprit: Culprit, text: str, provenance: Mapping[str, str]
) -> TargetError:
    """The one line a user sees: package, node, op, the pass that made it, NVIDIA's own words."""
    subject = culprit.text(provenance) or "the graph"
    return TargetError(f"{dialect.label} {verb} {subject}: {text}")


def no_layers_reason(options: BuilderOptions) -> str:
    """Why the builder told nothing of its layers."""
    if options.profiling_verbosity != "detailed":
        return f"no layer types: profilingVerbosity is {options.profiling_verbosity}"
    return "no layer types: this builder does not list its layers in its log"
