"""onnxgraft: compiles detectron2 detectors exported to ONNX into TensorRT engines that give the same answers.

    import onnxgraft
    build = onnxgraft.compile("model.onnx", "out")
    build.spec.box_head.score_threshold
    print(build.passes["inject-anchors"].diff)

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from typing import TYPE_CHECKING, Any

# Newer versions of ONNX Runtime tell their makers what runs, and keep files for that in the home and temporary folders.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from onnxgraft.detector.outputs import Role as Role
    from onnxgraft.detector.spec import DetectorSpec as DetectorSpec
    from onnxgraft.driver.compile import Build as Build
    from onnxgraft.driver.compile import compile as compile
    from onnxgraft.errors import InputError as InputError
    from onnxgraft.errors import MissingExtraError as MissingExtraError
    from onnxgraft.errors import OnnxgraftError as OnnxgraftError
    from onnxgraft.errors import PassError as PassError
    from onnxgraft.errors import PluginError as PluginError
    from onnxgraft.errors import Refusal as Refusal
    from onnxgraft.errors import TargetError as TargetError
    from onnxgraft.ir.builder import Builder as Builder
    from onnxgraft.ir.graph import Graph as Graph
    from onnxgraft.ir.pattern import Const as Const
    from onnxgraft.ir.pattern import Op as Op
    from onnxgraft.ir.pattern import Var as Var
    from onnxgraft.options import BuilderOptions as BuilderOptions
    from onnxgraft.options import CalibrationOptions as CalibrationOptions
    from onnxgraft.options import CompileOptions as CompileOptions
    from onnxgraft.options import Options as Options
    from onnxgraft.options import RunOptions as RunOptions
    from onnxgraft.options import Size as Size
    from onnxgraft.passes.emit.plugin import add_plugin as add_plugin
    from onnxgraft.pipeline.base import DetectorPass as DetectorPass
    from onnxgraft.pipeline.base import Pass as Pass
    from onnxgraft.pipeline.base import Region as Region
    from onnxgraft.pipeline.context import Context as Context
    from onnxgraft.pipeline.facts import Fact as Fact
    from onnxgraft.pipeline.instrument import Instrument as Instrument
    from onnxgraft.pipeline.manager import PassManager as PassManager
    from onnxgraft.pipeline.record import PassRecord as PassRecord
    from onnxgraft.pipeline.record import Report as Report
    from onnxgraft.pipeline.registry import Registry as Registry
    from onnxgraft.pipeline.rewrite import Rewrite as Rewrite
    from onnxgraft.pipeline.syntax import Pipeline as Pipeline
    from onnxgraft.runtime.predictor import Predictor as Predictor
    from onnxgraft.tools.inspect import inspect as inspect

_PLACES = {
    "detector.outputs": ("Role",),
    "detector.spec": ("DetectorSpec",),
    "driver.compile": ("Build", "compile"),
    "errors": ("InputError", "MissingExtraError", "OnnxgraftError", "PassError", "PluginError", "Refusal", "TargetError"),
    "ir.builder": ("Builder",),
    "ir.graph": ("Graph",),
    "ir.pattern": ("Const", "Op", "Var"),
    "options": ("BuilderOptions", "CalibrationOptions", "CompileOptions", "Options", "RunOptions", "Size"),
    "passes.emit.plugin": ("add_plugin",),
    "pipeline.base": ("DetectorPass", "Pass", "Region"),
    "pipeline.context": ("Context",),
    "pipeline.facts": ("Fact",),
    "pipeline.instrument": ("Instrument",),
    "pipeline.manager": ("PassManager",),
    "pipeline.record": ("PassRecord", "Report"),
    "pipeline.registry": ("Registry",),
    "pipeline.rewrite": ("Rewrite",),
    "pipeline.syntax": ("Pipeline",),
    "runtime.predictor": ("Predictor",),
    "tools.inspect": ("inspect",),
}
_MODULES = {name: f"onnxgraft.{module}" for module, names in _PLACES.items() for name in names}

__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("onnxgraft")
    if name not in _MODULES:
        raise AttributeError(f"module 'onnxgraft' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
