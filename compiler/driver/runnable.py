"""The form of a compiled graph that ONNX Runtime runs on the CPU, where it differs from what the builder gets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from onnxgraft.ir.graph import Graph
from onnxgraft.passes import Fp16, LowerPlugins, UpgradeOpset
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.syntax import Pipeline
from onnxgraft.quantization.ranges import Provider


def write_runnable(source: Path, pipeline: Pipeline, ranges: Provider, folder: Path, target: str, order: str | None) -> str:
    """Write runnable.onnx where model.onnx does not do, and return the name of the file that does.

    model.onnx does not run in ONNX Runtime when it holds TensorRT's plugins. It runs, but not as the engine computes,
    when it is typed fp16 (ONNX Runtime computes it in fp32 without rounding) and not at all when it is typed bf16.
    """
    lowered = any(isinstance(step, LowerPlugins) for step in pipeline.passes)
    typed = any(isinstance(step, Fp16) for step in pipeline.passes)
    if not lowered or target == "onnxruntime" or not (typed or target == "tensorrt"):
        return "model.onnx"
    graph = Graph.load(source)
    steps = [_portable(step) for step in pipeline.passes if not isinstance(step, LowerPlugins)]
    PassManager(steps, fingerprints=False).run(graph, Context(calibrate=ranges.ranges, channel_order=order))
    graph.save(folder / "runnable.onnx")
    return "runnable.onnx"


def _portable(step: Pass) -> Pass:
    if isinstance(step, Fp16):
        return dataclasses.replace(step, emulate=True)
    return UpgradeOpset() if isinstance(step, UpgradeOpset) else step
