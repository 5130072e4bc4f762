"""name-outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.stages import Stages, detect, run_unordered, same

from onnxgraft.errors import InputError
from onnxgraft.passes import NameOutputs

OUTPUTS = [
    ("num_detections", np.int32, [1, 1]),
    ("detection_boxes", np.float32, [1, 100, 4]),
    ("detection_scores", np.float32, [1, 100]),
    ("detection_classes", np.int32, [1, 100]),
    ("detection_masks", np.float32, [1, 100, 28, 28]),
]


def test_outputs_are_those_of_nvidias_sample(stages: Stages) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    assert [(t.name, t.dtype, t.shape) for t in graph.gs.outputs] == OUTPUTS
    assert ctx.io.outputs == {name: tuple(shape) for name, _, shape in OUTPUTS}
    assert ctx.io.boxes == "normalized"


def test_boxes_are_divided_by_the_canvas(stages: Stages) -> None:
    assert same(stages.detections("mask-head"), stages.detections("name-outputs")) is None


def test_boxes_can_stay_in_pixels(stages: Stages, tmp_path: Path) -> None:
    graph, ctx = stages.before_pass("name-outputs")
    run_unordered([NameOutputs(boxes="pixels")], graph, ctx)
    assert ctx.io.boxes == "pixels"
    assert "Div" not in graph.tensor("detection_boxes").inputs[0].op
    assert same(stages.detections("mask-head"), detect(graph, ctx, stages.image, tmp_path), px=0, score=0, mask=0) is None


def test_other_units_are_refused() -> None:
    with pytest.raises(InputError) as refused:
        NameOutputs(boxes="inches")  # type: ignore[arg-type]
    assert str(refused.value) == "name-outputs{boxes}: 'inches' is not one of normalized, pixels"
