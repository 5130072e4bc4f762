"""The canonical text of the trained detector after each pass, as stored. Rewrite with `pytest --update-golden`.

Texts begin with simplify: what comes before is the exporter's. Read the diff before committing a rewritten text.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.graphs import compare_text

from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import text
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.record import PassRecord

STORED = catalog.ROOT / "mask_rcnn" / "passes"
PIPELINE = default_pipeline(CompileOptions(), "onnxruntime")
NAMES = [step.name() for step in PIPELINE.passes]
# Passes for other exports, or for parts that a Mask R-CNN lacks: they leave it as it is and have no text of their own.
FOR_OTHERS = ("repair-roi-align", "take-proposals", "dense-decode", "dense-nms", "point-head", "keypoint-head", "deform-conv")
FILES = [f"{name}.txt" for name in NAMES[NAMES.index("simplify") :] if name not in FOR_OTHERS]


class Texts(Instrument):
    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.skipped: dict[str, str] = {}

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        if record.skipped is not None:
            self.skipped[record.name] = record.skipped
        self.texts[f"{record.name}.txt"] = text(graph, canonical=True)
        return record


@pytest.fixture(scope="module")
def kept(golden_model: Path) -> Texts:
    keeper = Texts()
    PassManager(PIPELINE.passes, [keeper], fingerprints=False).run(Graph.load(golden_model), Context())
    return keeper


@pytest.mark.parametrize("file", FILES)
def test_text_after_each_pass(file: str, kept: Texts, request: pytest.FixtureRequest) -> None:
    compare_text(STORED / file, kept.texts[file], request)


def test_passes_for_other_detectors_are_skipped_and_say_why(kept: Texts) -> None:
    assert kept.skipped == {
        "repair-roi-align": "the export's opset 16 says how RoiAlign is aligned",
        "take-proposals": "the detector has no input of proposals",
        "dense-decode": "the detector has no dense head",
        "dense-nms": "the detector has no dense head",
        "point-head": "the detector has no point head",
        "keypoint-head": "the detector has no keypoint head",
        "deform-conv": "the graph has no DeformConv",
    }
    assert set(kept.skipped) == set(FOR_OTHERS)
    files = list(kept.texts)
    for name in FOR_OTHERS:
        index = next(i for i, file in enumerate(files) if file == f"{name}.txt")
        assert kept.texts[files[index]] == kept.texts[files[index - 1]]


def test_no_other_text_is_stored(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        for path in STORED.glob("*"):
            if path.name not in FILES:
                path.unlink()
    assert sorted(path.name for path in STORED.glob("*")) == sorted(FILES)
    assert sum(path.stat().st_size for path in STORED.glob("*")) < 1_600_000
