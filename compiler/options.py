"""What a user can ask of a compilation, and the default pipeline that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxgraft.errors import InputError

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """Options of the passes of the default pipeline, under the names of the command line."""

    precision: str = "fp32"
    height: int = 1344
    width: int = 1344
    batch: int = 1
    proposals: int | None = None
    allow_unknown_outputs: bool = False
    input_order: str = "model"
    input_layout: str = "NCHW"
    input_dtype: str = "float32"
    image_sizes: bool = False
    exact_padding: bool = False
    boxes: str = "normalized"
    rpn_score_threshold: float = 0.0
    score_threshold: float | None = None
    iou_threshold: float | None = None
    detections: int | None = None
    pooler_type: str = "ROIAlignV2"
    nms: str = "auto"
    roi_align: str = "auto"
    roi_sampling: str = "exact"
    deform_conv: str = "auto"
    max_candidates: int | None = None
    keep_fp16: str | None = None
    keep_fp32: str | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")

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
