"""The golden detector after each pass of the default pipeline, and what it detects there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxgraft.instruments.stage import feeder, stage_detections
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline, parse_pipeline
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.record import PassRecord, Report
from onnxgraft.runtime.detections import Detections
from onnxgraft.targets import OrtRunner

SIZE = (256, 320)  # not square, so that a mixed-up height and width shows
SEED = 3_000_000_500


def detect(graph: Graph, ctx: Context, image: np.ndarray, folder: Path) -> Detections:
    """The first image's detections of a graph at any stage, in pixels."""
    path, feeds = folder / "detect.onnx", feeder(graph, ctx)
    graph.save(path)
    return stage_detections(OrtRunner(path)(feeds([image])), ctx, feeds.io)


class Stages(Instrument):
    """The golden detector after each pass of the default pipeline, at 256x320, each stage kept as a file."""

    def __init__(self, model: Path, image: np.ndarray, folder: Path) -> None:
        self.image = image
        self.folder = folder
        self.names: list[str] = []
        self._context: dict[str, Context] = {}
        self._opset = 0
        self._detections: dict[str, Detections] = {}
        self.pipeline = default_pipeline(CompileOptions(size=SIZE), "onnxruntime")
        graph, ctx = Graph.load(model), Context()
        self._opset = graph.source_opset
        self._keep("input", graph, ctx)
        self.report = PassManager(self.pipeline.passes, [self]).run(graph, ctx)

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        self._keep(step.name(), graph, ctx)
        return record

    def _keep(self, name: str, graph: Graph, ctx: Context) -> None:
        graph.save(self.folder / f"{name}.onnx")
        self._context[name] = ctx.copy()
        self.names.append(name)

    def after_pass(self, name: str) -> tuple[Graph, Context]:
        """A fresh graph and context as they were after a pass ("input": before all of them)."""
        graph = Graph.load(self.folder / f"{name}.onnx")
        graph.source_opset = self._opset
        return graph, self._context[name].copy()

    def before_pass(self, name: str) -> tuple[Graph, Context]:
        return self.after_pass(self.names[self.names.index(name) - 1])

    def detections(self, name: str) -> Detections:
        """What the graph detects after a pass, in ONNX Runtime."""
        if name not in self._detections:
            graph, ctx = self.after_pass(name)
            self._detections[name] = detect(graph, ctx, self.image, self.folder)
        return self._detections[name]

    def go_on(self, before: str, changed: str = "", until: str = "name-outputs") -> tuple[Graph, Context, Report]:
        """Run the rest of the pipeline from before a pass, with some of its passes given anew as text."""
        graph, ctx = self.before_pass(before)
        anew = {step.name(): step for step in parse_pipeline(changed).passes} if changed else {}
        names = self.names[self.names.index(before) : self.names.index(until) + 1]
        steps = [anew.get(s.name(), s) for s in self.pipeline.passes if s.name() in names]
        return graph, ctx, run_unordered(steps, graph, ctx)


def run_unordered(steps: Sequence[Pass], graph: Graph, ctx: Context) -> Report:
    """Run passes on a graph of which what they require is taken to hold."""
    given = [fact for step in steps for fact in step.required()]
    return PassManager(steps, given=given).run(graph, ctx)


def same(a: Detections, b: Detections, px: float = 1e-3, score: float = 1e-5, mask: float = 1e-4) -> str | None:
    """None when two sets of detections agree one by one in order; else what differs first.

    The defaults allow what a changed order of float32 operations does, nothing more.
    """
    if len(a) != len(b):
        return f"{len(a)} against {len(b)} detections"
    if not np.array_equal(a.classes, b.classes):
        return "classes differ"
    worst = {
        "box": (np.abs(a.boxes - b.boxes).max(initial=0), px),
        "score": (np.abs(a.scores - b.scores).max(initial=0), score),
    }
    if (a.masks is None) != (b.masks is None):
        return "masks on one side only"
    if a.masks is not None and b.masks is not None:
        worst["mask"] = (np.abs(a.masks - b.masks).max(initial=0), mask)
    return next((f"{what} differs by {d:.3g}" for what, (d, limit) in worst.items() if not d <= limit), None)
