"""What a target is: the place a compiled graph is handed over to, and what can be asked of it."""

from __future__ import annotations

import dataclasses
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from onnxgraft.errors import InputError
from onnxgraft.onnx_file import write_atomically

HARDWARE_LEVELS = ("none", "ampere+", "sameComputeCapability")
PROFILING_LEVELS = ("none", "layer_names_only", "detailed")


@dataclass(frozen=True, kw_only=True)
class BuilderOptions:
    """How an engine is built; each field names the trtexec flag that does the same.

    Raises InputError when a value is outside what the flag allows. What one target lacks is
    refused or noted when the engine is built, not here.
    """

    workspace: float | None = None
    """--memPoolSize=workspace:N, in MiB; None leaves TensorRT's own limit."""
    builder_optimization_level: int | None = None
    """--builderOptimizationLevel=N, 0 (fastest build) to 5; None is TensorRT's default, 3."""
    timing_cache: Path | None = None
    """--timingCacheFile=F: read when it exists, written after the build."""
    compute_capabilities: tuple[str, ...] = ()
    """--computeCapabilities=75,89 (TensorRT for RTX): GPUs to build for; none: 8.0 and later."""
    version_compatible: bool = False
    """--versionCompatible: the engine also loads in later versions of TensorRT."""
    hardware_compatibility_level: str = "none"
    """--hardwareCompatibilityLevel=none|ampere+|sameComputeCapability (not TensorRT for RTX)."""
    strip_weights: bool = False
    """--stripWeights: leave the weights out of the engine; they are refitted when it is loaded."""
    refit: bool = False
    """--refit: the weights of the engine can be replaced later."""
    no_tf32: bool = False
    """--noTF32: fp32 layers never round their inputs to TF32 (10-bit mantissas)."""
    profiling_verbosity: str = "detailed"
    """--profilingVerbosity=none|layer_names_only|detailed: what is told about the layers."""

    def __post_init__(self) -> None:
        level = self.builder_optimization_level
        if level is not None and not 0 <= level <= 5:
            raise InputError(f"builderOptimizationLevel is {level}: give 0 to 5")
        if self.workspace is not None and not self.workspace > 0:
            raise InputError(f"memPoolSize workspace is {self.workspace:g} MiB: give more than 0")
        _one_of("hardwareCompatibilityLevel", self.hardware_compatibility_level, HARDWARE_LEVELS)
        _one_of("profilingVerbosity", self.profiling_verbosity, PROFILING_LEVELS)

    def trtexec_flags(self) -> list[str]:
        """The options that differ from the defaults, as trtexec writes them."""
        flags = []
        if self.workspace is not None:
            flags.append(f"--memPoolSize=workspace:{self.workspace:g}")
        if self.builder_optimization_level is not None:
            flags.append(f"--builderOptimizationLevel={self.builder_optimization_level}")
        if self.timing_cache is not None:
            flags.append(f"--timingCacheFile={self.timing_cache}")
        if self.compute_capabilities:
            capabilities = ",".join(c.replace(".", "") for c in self.compute_capabilities)
            flags.append(f"--computeCapabilities={capabilities}")
        if self.hardware_compatibility_level != "none":
            flags.append(f"--hardwareCompatibilityLevel={self.hardware_compatibility_level}")
        switches = {
            "--versionCompatible": self.version_compatible,
            "--stripWeights": self.strip_weights,
            "--refit": self.refit,
            "--noTF32": self.no_tf32,
        }
        flags += [flag for flag, on in switches.items() if on]
        if self.profiling_verbosity != "layer_names_only":
            flags.append(f"--profilingVerbosity={self.profiling_verbosity}")
        return flags


def _one_of(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{flag} is {value!r}: give one of {', '.join(allowed)}")


@dataclass(frozen=True)
class LayerInfo:
    """One layer of the engine, as the builder itself lists it.

    `kind` is the builder's layer type ("correlation" is a convolution, "kgen" a fused kernel made
    for this graph), the types are the builder's words: Float, Half, BFloat16, Int8, Int32, Bool...
    `onnx_nodes` are the nodes that were fused into the layer.
    """

    name: str
    kind: str
    input_types: tuple[str, ...]
    constant_types: tuple[str, ...]
    output_types: tuple[str, ...]
    onnx_nodes: tuple[str, ...]

    @property
    def type(self) -> str:
        """The type the layer computes on: that of its first input, or of its output without one.

        A layer that quantizes counts under what it reads; one fused with a leading cast as well.
        Empty for layers that only synchronise streams.
        """
        return next(iter((*self.input_types, *self.output_types, *self.constant_types)), "")


@dataclass(frozen=True)
class EngineInfo:
    """What a build gave: sizes in bytes, times in seconds, and the engine's layers.

    `layers` is empty when the builder told nothing of them; `notes` then says why. `notes` also
    lists every option that the target took differently from what was asked.
    """

    target: str
    module: str
    engine_bytes: int
    parse_seconds: float
    build_seconds: float
    layers: tuple[LayerInfo, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def layer_types(self) -> dict[str, dict[str, int]]:
        """How many layers of each kind ended in which type: {"correlation": {"Int8": 61}, ...}."""
        counts: dict[str, Counter[str]] = {}
        for layer in self.layers:
            if layer.type:
                counts.setdefault(layer.kind, Counter())[layer.type] += 1
        return {kind: dict(sorted(counts[kind].items())) for kind in sorted(counts)}

    def types_of(self, nodes: Mapping[str, str] | set[str]) -> dict[str, int]:
        """How many of these ONNX nodes run in which type, by the layer each was fused into."""
        counts: Counter[str] = Counter()
        for layer in self.layers:
            counts[layer.type] += sum(name in nodes for name in layer.onnx_nodes)
        return {kind: count for kind, count in sorted(counts.items()) if count}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file: the layers as counts, everything else as it is."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {
            "layers": len(self.layers),
            "layer_types": self.layer_types,
            "notes": list(self.notes),
        }


class Target(ABC):
    """Where a compiled graph goes: what it accepts, whether it is here, and how it is built."""

    name: str
    plugins: frozenset[str] = frozenset()
    """Plugin ops the target has itself; all others must be lowered to standard ops before."""
    suffix: str = ".engine"
    """How the file that `build` writes is named; empty when it writes none."""

    @abstractmethod
    def available(self) -> str | None:
        """None when engines can be built here, or the reason why not, in one line."""

    @abstractmethod
    def can_run(self) -> str | None:
        """None when what `build` makes can be run here, or the reason why not, in one line."""

    @abstractmethod
    def version(self) -> str:
        """The module that builds and its version, or the module alone when it is missing."""

    @abstractmethod
    def build(
        self,
        model: Path,
        engine: Path,
        options: BuilderOptions | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> EngineInfo:
        """Turn the ONNX file into an engine file, which appears whole or not at all.

        `provenance` gives, for a node's name, the pass that made it; a refusal names it.
        Raises TargetError when the target refuses the graph or is not here, InputError when the
        engine or the timing cache cannot be written.
        """

    @abstractmethod
    def runner(self, path: Path, threads: int | None = None) -> Runner:
        """Load what `build` made; raises TargetError with the reason where it cannot run."""

    @abstractmethod
    def trtexec_line(
        self, model: Path, engine: Path, options: BuilderOptions | None = None
    ) -> str | None:
        """The command of NVIDIA's own tool that builds the same engine, or None."""


class Runner(ABC):
    """A loaded model: named arrays in, named arrays out."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    @abstractmethod
    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run once; NumPy arrays of the shapes and dtypes the model declares."""


def check_writable(path: Path) -> None:
    """Make the folder of `path` and see that a file can be made there, before time is spent.

    Raises InputError in one line when it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def write_file(path: Path, data: Any) -> None:
    """Write a buffer without copying it; the file appears whole or not at all.

    Raises InputError in one line (no space, no permission); an older file then stays as it was.
    """

    def write(file: BinaryIO) -> None:
        file.write(data)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
