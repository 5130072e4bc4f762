"""Small graphs from text: parsed, run, compared."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.ir.graph import Graph
from onnxgraft.targets import OrtRunner


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


def node_of(graph: Graph, op: str, index: int = 0) -> gs.Node:
    """The index-th node of a kind."""
    return [node for node in graph.nodes if node.op == op][index]


def compare_text(stored: Path, now: str, request: pytest.FixtureRequest) -> None:
    """Fail with the diff when a text is not as stored; with --update-golden it is stored first."""
    if request.config.getoption("--update-golden"):
        stored.parent.mkdir(exist_ok=True)
        stored.write_text(now)
    before = stored.read_text()
    if before != now:
        diff = list(difflib.unified_diff(before.splitlines(), now.splitlines(), "stored", "now", n=0, lineterm=""))
        pytest.fail(f"{len(diff)} lines of diff; --update-golden rewrites:\n" + "\n".join(line[:200] for line in diff[:40]))
