"""The numeric check: what a pass changes on purpose is told as such, and what it breaks is not let through."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from helpers.stages import Stages

from onnxgraft import Builder, Context, Graph, Pass, PassError, PassManager, Role
from onnxgraft.instruments import NumericCheck
from onnxgraft.passes import BoxNMS, KeypointHead
from onnxgraft.pipeline.record import (
    Check,
    Compared,
    Figures,
    First,
    Intended,
    NotChecked,
    PassRecord,
    Report,
    Unchanged,
    check_from_dict,
    check_to_dict,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ShiftBoxes(Pass):
    """Move every box by three pixels."""

    def run(self, graph: Graph, ctx: Context) -> None:
        old = graph.tensor(ctx.values.results[Role.BOXES])
        b = Builder(graph, "shift")
        new = b.op("Add", [old, b.floats("by", [3.0])], "boxes", shape=old.shape)
        graph.gs.outputs[:] = [new if t is old else t for t in graph.gs.outputs]
        old.name, new.name = graph.fresh("old_boxes"), old.name


def checked(stages: Stages, before: str, *steps: Pass) -> Report:
    graph, ctx = stages.before_pass(before)
    return PassManager(steps, [NumericCheck([stages.image])], given=ctx.facts).run(graph, ctx)


def test_a_threshold_that_the_user_chose_is_an_intended_change(stages: Stages) -> None:
    check = checked(stages, "box-nms", BoxNMS(score_threshold=0.5))["box-nms"].check
    assert isinstance(check, Intended)
    assert check.reason == "you chose another score threshold"
    assert 0 < check.figures.found < check.figures.reference


def test_without_options_the_same_pass_must_not_change_anything(stages: Stages) -> None:
    report = checked(stages, "box-nms", BoxNMS(), KeypointHead())
    check = report["box-nms"].check
    assert isinstance(check, Compared)
    assert check.figures.exact
    assert check.figures.found == check.figures.matched > 0
    assert report["keypoint-head"].check is None
    assert report["keypoint-head"].skipped == "the detector has no keypoint head"


def test_a_pass_that_moves_boxes_is_not_let_through(stages: Stages) -> None:
    with pytest.raises(PassError, match="'shift-boxes': changes the detections: 0 of"):
        checked(stages, "mask-head", ShiftBoxes())


FIGURES = Figures(1, 5, 4, 6, 0.5, 0.25, 0.125, None, None, False)
CHECKS: list[tuple[Check, str]] = [
    (Unchanged(), "unchanged"),
    (NotChecked("too large"), "not checked: too large"),
    (First(7), "7 detections"),
    (Compared(FIGURES), "4/5 same, box 0.5 px, score 0.25, mask 0.12"),
    (Intended(FIGURES, "asked for"), "intended change: 4/5 same, box 0.5 px, score 0.25, mask 0.12"),
]


@pytest.mark.parametrize(("check", "words"), CHECKS)
def test_checks_survive_json_and_say_themselves_in_a_line(check: Check, words: str) -> None:
    assert check_from_dict(json.loads(json.dumps(check_to_dict(check)))) == check
    assert str(check) == words


def test_a_report_holds_checks_and_reasons_as_plain_data() -> None:
    record = PassRecord(1, "a", "a", False, 0.0, 1, 1, {}, skipped="nothing to do", check=First(7))
    row = json.loads(json.dumps(Report([record]).to_dict()))["passes"][0]
    assert row["skipped"] == "nothing to do"
    assert row["check"] == {"state": "first", "detections": 7}
