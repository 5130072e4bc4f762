"""Helpers that many tests share."""

from __future__ import annotations

import copy
import difflib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.graph import Graph
from onnxgraft.instruments.numeric import stage_detections, stage_feeds
from onnxgraft.manager import Context, Instrument, Pass, PassManager, PassRecord, Report
from onnxgraft.options import CompileOptions, default_pipeline
from onnxgraft.pipeline import Pipeline
from onnxgraft.runtime.detections import Detections
from onnxgraft.targets import OrtRunner

SIZE = (256, 320)  # not square, so that a mixed-up height and width shows
SEED = 3_000_000_500
HANGS = 1800  # seconds after which a command hangs, however busy the machine


def detect(graph: Graph, ctx: Context, image: np.ndarray, folder: Path) -> Detections:
    """The first image's detections of a graph at any stage, in pixels."""
    path = folder / "detect.onnx"
    graph.save(path)
    return stage_detections(OrtRunner(path)(stage_feeds(graph, ctx, image)), ctx)


def compare_text(stored: Path, now: str, request: pytest.FixtureRequest) -> None:
    """Fail with the diff when a text is not as stored; with --update-golden it is stored first."""
    if request.config.getoption("--update-golden"):
        stored.parent.mkdir(exist_ok=True)
        stored.write_text(now)
    before = stored.read_text()
    if before != now:
        diff = list(difflib.unified_diff(before.splitlines(), now.splitlines(), "stored", "now", n=0, lineterm=""))
        pytest.fail(f"{len(diff)} lines of diff; --update-golden rewrites:\n" + "\n".join(line[:200] for line in diff[:40]))


class Stages(Instrument):
    """The golden detector after each pass of the default pipeline, at 256x320, each stage kept as a file."""

    def __init__(self, model: Path, image: np.ndarray, folder: Path) -> None:
        self.image = image
        self.folder = folder
        self.names: list[str] = []
        self._context: dict[str, Context] = {}
        self._opset = 0
        self._detections: dict[str, Detections] = {}
        self.pipeline = default_pipeline(CompileOptions(height=SIZE[0], width=SIZE[1]), "onnxruntime")
        graph, ctx = Graph.load(model), Context()
        self._opset = graph.source_opset
        self._keep("input", graph, ctx)
        self.report = PassManager(self.pipeline.passes, [self]).run(graph, ctx)

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        self._keep(step.name(), graph, ctx)
        return record

    def _keep(self, name: str, graph: Graph, ctx: Context) -> None:
        graph.save(self.folder / f"{name}.onnx")
        self._context[name] = copy.deepcopy(ctx)
        self.names.append(name)

    def after_pass(self, name: str) -> tuple[Graph, Context]:
        """A fresh graph and context as they were after a pass ("input": before all of them)."""
        graph = Graph.load(self.folder / f"{name}.onnx")
        graph.source_opset = self._opset
        return graph, copy.deepcopy(self._context[name])

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
        anew = {step.name(): step for step in Pipeline.parse(changed).passes} if changed else {}
        names = self.names[self.names.index(before) : self.names.index(until) + 1]
        steps = [anew.get(s.name(), s) for s in self.pipeline.passes if s.name() in names]
        return graph, ctx, run_unordered(steps, graph, ctx)


def run_unordered(steps: Sequence[Pass], graph: Graph, ctx: Context) -> Report:
    """Run passes that go on from a stage whose facts the context already has."""
    manager = PassManager([])
    manager.passes = list(steps)
    return manager.run(graph, ctx)


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


def parse_graph(text: str, folder: Path | None = None) -> Graph:
    """A graph from ONNX text. Constants in the text are initializers."""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    graph = Graph(gs.import_onnx(model))
    graph.name_nodes()
    return graph


def run_graph(graph: Graph, feeds: dict[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """The outputs of a small graph in ONNX Runtime, in order."""
    path = folder / "small.onnx"
    graph.save(path)
    found = OrtRunner(path)(feeds)
    return [found[t.name] for t in graph.gs.outputs]


def cli(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", "from onnxgraft.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=HANGS)


def assert_one_line_error(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """A refusal as a user should see it: exit code, one line, no traceback; the line holds all the words."""
    lines = result.stderr.splitlines()
    assert result.returncode not in (0, None), (result.returncode, result.stdout)
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: "), result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    for word in words:
        assert word in lines[0], lines[0]


def node_of(graph: Graph, op: str, index: int = 0) -> gs.Node:
    """The index-th node of a kind."""
    return [node for node in graph.nodes if node.op == op][index]
