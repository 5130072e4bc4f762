"""Heads and numbers that people bring and no golden member has: recognised, and compiled to PyTorch's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden_graphs.zoo import checking
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.golden import catalog, pictures
from onnxgraft.golden.references import detections_of
from onnxgraft.manifest import Preprocess
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.feeds import Feeder
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.targets import OrtRunner

HOME = Path(__file__).parents[1] / "data" / "heads"
SEED, SIZE, PICTURES = 20271, (192, 256), 2
NAMES = sorted(path.name for path in HOME.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads")


def answers(name: str) -> list[dict[str, np.ndarray]]:
    stored = np.load(HOME / name / "answers.npz")
    return [{k.partition(".")[2]: v for k, v in stored.items() if k.startswith(f"{i}.")} for i in range(PICTURES)]


def numbers(spec: DetectorSpec) -> dict[str, Any]:
    head, rpn = spec.box_head, spec.rpn
    assert head is not None
    assert rpn is not None
    found = {"classes": head.num_classes, "agnostic": head.class_agnostic, "activation": head.activation,
             "detections": head.detections_per_image, "proposals": rpn.post_nms_topk}  # fmt: skip
    return found | ({"masks": (spec.mask_head.resolution, spec.mask_head.class_agnostic)} if spec.mask_head else {})


WANTED: dict[str, dict[str, Any]] = {
    "cosine": {"classes": 20, "agnostic": False, "activation": "softmax", "masks": (14, False)},
    "double_agnostic": {"classes": 7, "agnostic": True, "masks": (56, True)},
    "federated_1203": {"classes": 1203, "agnostic": True, "activation": "sigmoid", "detections": 1000, "proposals": 50},
    "one_of_4000": {"classes": 1, "detections": 1, "proposals": 4000},
    "trident_fast": {"classes": 7, "detections": 30, "proposals": 100},
}


@pytest.mark.parametrize(("form", "batch"), [("plugin", 2), ("native", 1)])
@pytest.mark.parametrize("name", NAMES)
def test_its_numbers_are_read_and_its_answers_pytorchs(name: str, form: str, batch: int, folder: Path) -> None:
    path = catalog.materialise(HOME / name, "model.onnx", folder)
    compiled, ctx, _ = checking.compile_form(path, form, SIZE, folder, batch=batch)
    spec, read = ctx.spec(), numbers(ctx.spec())
    assert {key: read[key] for key in WANTED[name]} == WANTED[name]
    assert spec.rpn is not None
    assert {level.feature_tensor for level in spec.rpn.levels} == {n for p in spec.poolers() for n in p.feature_tensors}
    feeds = Feeder.of(ctx.io, Preprocess.of(spec.image))
    outputs = OrtRunner(compiled, 2)(feeds([pictures.blocks(SEED + i, SIZE) for i in range(batch)], None))
    for row, own in enumerate(answers(name)[:batch]):
        report = match(detections_of(own), from_outputs(outputs, ctx.io, row))
        assert report.exact, report
        assert report.reference


def test_the_stored_models_are_small() -> None:
    assert set(WANTED) == set(NAMES)
    assert all(sum(file.stat().st_size for file in (HOME / name).iterdir()) < 80_000 for name in NAMES)
