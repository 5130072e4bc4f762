"""onnxgraft: compiles detectron2 detectors exported to ONNX into TensorRT engines that give the same answers.

    import onnxgraft
    build = onnxgraft.compile("model.onnx", "out")
    build.spec.box_head.score_threshold
    print(build.passes["inject-anchors"].diff)
"""

from onnxgraft.build import Build, Request, compile
from onnxgraft.detector import DetectorSpec
from onnxgraft.errors import InputError, MissingExtraError, OnnxgraftError, PassError, PluginError, Refusal, TargetError
from onnxgraft.graph import Builder, Graph
from onnxgraft.inspection import inspect
from onnxgraft.manager import Context, Instrument, Pass, PassManager, PassRecord, Report
from onnxgraft.options import CompileOptions
from onnxgraft.pipeline import Pipeline, Registry
from onnxgraft.targets import BuilderOptions

__all__ = [
    "Build", "Builder", "BuilderOptions", "CompileOptions", "Context", "DetectorSpec", "Graph", "InputError",
    "Instrument", "MissingExtraError", "OnnxgraftError", "Pass", "PassError", "PassManager", "PassRecord", "Pipeline",
    "PluginError", "Refusal", "Registry", "Report", "Request", "TargetError", "compile", "inspect",
]  # fmt: skip
