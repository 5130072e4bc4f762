"""What many tests share: the golden detector, compiled once at a small size and kept after every pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import SEED, SIZE, Stages, run_unordered
from target_models import CONV_NET, write

from onnxgraft import golden, golden_references
from onnxgraft.graph import Graph
from onnxgraft.manager import Context, Pass, PassRecord
from onnxgraft.targets import devices


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden texts; read the diff afterwards")
    parser.addoption("--speed", action="store_true", help="also hold the report page to its times; for an idle machine")


@pytest.fixture(scope="session")
def golden_model() -> Path:
    """The trained detector, exported at opset 16."""
    return golden.ROOT / "mask_rcnn" / "model.onnx"


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """A small drawn scene, uint8 BGR [256, 320, 3]."""
    return golden_references.shapes().draw(SEED, SIZE)[0]


@pytest.fixture(scope="session")
def stages(golden_model: Path, scene: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return Stages(golden_model, scene, tmp_path_factory.mktemp("stages"))


@pytest.fixture
def run_pass(stages: Stages) -> Callable[..., PassRecord]:
    """Run one pass on a graph of a stage; gives its record."""

    def run(step: Pass, graph: Graph, ctx: Context) -> PassRecord:
        return run_unordered([step], graph, ctx).records[0]

    return run


@pytest.fixture
def conv_net(tmp_path: Path) -> Path:
    return write(tmp_path / "net.onnx", CONV_NET)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "compute_capabilities", tuple)
