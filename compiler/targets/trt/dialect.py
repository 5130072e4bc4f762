"""What differs between TensorRT 10, TensorRT 11 and TensorRT for RTX, in one place.

Read off NVIDIA's Python bindings 10.10, 10.16 and 11.4 and off TensorRT for RTX 1.7:

| | 10.x | 11.x | RTX 1.x |
|---|---|---|---|
| network flag STRONGLY_TYPED | must be given | there, always on | there, always on |
| init_libnvinfer_plugins | registers EfficientNMS_TRT and others | the same | there, adds nothing |
| IBuilderConfig.set_compute_capability | - | - | yes; without one: 8.0, 8.6, 8.9, 12.0 and later |
| hardware_compatibility_level | yes | yes | there, ignored with a warning |
| timing cache | yes | yes | there, a no-op since 1.2 |
| lean runtime (version compatible engines) | bundled | bundled | not shipped: it must be excluded |
| REFIT, STRIP_PLAN | yes | yes | only with a GPU (Myelin's graph_jit check fails without) |
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from onnxgraft.errors import TargetError
from onnxgraft.options import BuilderOptions
from onnxgraft.targets.trt.devices import no_gpu


@dataclass(frozen=True)
class Dialect:
    """One family of TensorRT packages: `module` is imported only when it is needed."""

    module: str
    label: str
    install: str
    tool: str
    tool_flags: tuple[str, ...]
    strongly_typed_flag: bool
    registers_plugins: bool
    compute_capabilities: bool
    hardware_compatibility: bool
    timing_cache: bool
    lean_runtime: bool
    refits_without_gpu: bool

    def load(self) -> ModuleType:
        """Import the module; raises TargetError that says what to install."""
        reason = self.missing()
        if reason:
            raise TargetError(reason)
        return importlib.import_module(self.module)

    def missing(self) -> str | None:
        """None when the module imports, or the reason why not."""
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name == self.module:
                return f"the module {self.module} is not installed: {self.install}"
            return f"the module {self.module} does not load: {' '.join(str(error).split())}"
        return None

    def version(self) -> str:
        """ "tensorrt_rtx 1.7.1", or the module's name alone when it is missing."""
        if self.missing():
            return self.module
        return f"{self.module} {self.load().__version__}"

    def check(self, options: BuilderOptions) -> tuple[str, ...]:
        """What the package takes differently; raises TargetError for what it cannot do at all."""
        notes = []
        if options.compute_capabilities and not self.compute_capabilities:
            raise TargetError(
                f"{self.label} builds for the GPU of this machine: leave computeCapabilities out"
            )
        if options.hardware_compatibility_level != "none" and not self.hardware_compatibility:
            raise TargetError(
                f"{self.label} ignores hardwareCompatibilityLevel: give computeCapabilities instead"
            )
        if (options.strip_weights or options.refit) and not self.refits_without_gpu:
            reason = no_gpu()
            if reason:
                raise TargetError(
                    f"{self.label} builds with stripWeights or refit only on a GPU: {reason}"
                )
        if options.timing_cache and not self.timing_cache:
            notes.append(
                f"{self.label} accepts a timing cache and ignores it: kernels are chosen on the "
                "GPU when the engine is loaded"
            )
        if options.version_compatible and not self.lean_runtime:
            notes.append(f"{self.label} has no lean runtime: the engine is built without one")
        return tuple(notes)


TENSORRT = Dialect(
    module="tensorrt",
    label="TensorRT",
    install="pip install 'onnxgraft[tensorrt]'",
    tool="trtexec",
    tool_flags=("--stronglyTyped",),
    strongly_typed_flag=True,
    registers_plugins=True,
    compute_capabilities=False,
    hardware_compatibility=True,
    timing_cache=True,
    lean_runtime=True,
    refits_without_gpu=True,
)

TENSORRT_RTX = Dialect(
    module="tensorrt_rtx",
    label="TensorRT for RTX",
    install="pip install 'onnxgraft[rtx]' (Linux and Windows on x86-64)",
    tool="tensorrt_rtx",
    tool_flags=(),
    strongly_typed_flag=True,
    registers_plugins=False,
    compute_capabilities=True,
    hardware_compatibility=False,
    timing_cache=False,
    lean_runtime=False,
    refits_without_gpu=False,
)

DIALECTS = (TENSORRT, TENSORRT_RTX)
