"""onnxgraft: compiles detectron2 detectors exported to ONNX into TensorRT engines that give the same answers.

    import onnxgraft
    build = onnxgraft.compile("model.onnx", "out")
    build.spec.box_head.score_threshold
    print(build.passes["inject-anchors"].diff)
"""

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.driver.compile import Build, Request, compile
from onnxgraft.errors import InputError, MissingExtraError, OnnxgraftError, PassError, PluginError, Refusal, TargetError
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.pipeline.base import DetectorPass, Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import Fact
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.record import PassRecord, Report
from onnxgraft.pipeline.registry import Registry
from onnxgraft.pipeline.syntax import Pipeline
from onnxgraft.targets import BuilderOptions
from onnxgraft.tools.inspect import inspect

__all__ = [
    "Build", "Builder", "BuilderOptions", "CompileOptions", "Context", "DetectorPass", "DetectorSpec", "Fact", "Graph",
    "InputError", "Instrument", "MissingExtraError", "OnnxgraftError", "Pass", "PassError", "PassManager", "PassRecord",
    "Pipeline", "PluginError", "Refusal", "Registry", "Report", "Request", "Role", "TargetError", "compile", "inspect",
]  # fmt: skip
