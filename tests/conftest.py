"""What many tests share: the golden detector, compiled once at a small size and kept after every pass."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.stages import SEED, SIZE, Stages, run_unordered
from helpers.target_models import CONV_NET, write

from onnxgraft.golden import catalog, scenes
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.record import PassRecord
from onnxgraft.targets.trt import devices


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden texts; read the diff afterwards")
    parser.addoption("--speed", action="store_true", help="also hold the report page to its times; for an idle machine")


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is loaded by now stays, and graphs are many small objects: searching them for garbage took a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="session")
def golden_model() -> Path:
    """The trained detector, exported at opset 16."""
    return catalog.ROOT / "mask_rcnn" / "model.onnx"


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """A small drawn scene, uint8 BGR [256, 320, 3]."""
    return scenes.draw(SEED, SIZE)[0]


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
