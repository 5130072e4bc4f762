"""Facts are true: a pass that claims one is asked, one that has nothing to do gives none, and what is required must hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from helpers.graphs import parse_graph
from helpers.small_models import MODEL

from onnxgraft import Context, DetectorPass, Fact, Graph, OnnxgraftError, Pass, PassError, PassManager, Role
from onnxgraft.detector.spec import BoxHead, DetectorSpec, ImageInput, Outputs
from onnxgraft.options import CompileOptions
from onnxgraft.passes import (
    BoxNMS,
    DenseNMS,
    Fp16,
    InjectAnchors,
    IntegerKernels,
    LowerPlugins,
    NameOutputs,
    Quantize,
    RepairRoiAlign,
    RpnNMS,
    Simplify,
    UpgradeOpset,
)  # fmt: skip
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline import facts
from onnxgraft.pipeline.context import Ranges
from onnxgraft.pipeline.repeat import Repeat
from onnxgraft.pipeline.values import DetectorValues, LevelValues, ProposalValues
from onnxgraft.plugins.lowering import NmsLowering


@dataclass(frozen=True, kw_only=True)
class Claim(Pass):
    """Claim a fact and do nothing for it."""

    fact: str = "opset"

    def provided(self) -> tuple[Fact, ...]:
        return facts.facts([self.fact])

    def run(self, graph: Graph, ctx: Context) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Needs(Pass):
    """Require a fact."""

    fact: str = "opset"

    def required(self) -> tuple[Fact, ...]:
        return facts.facts([self.fact])

    def run(self, graph: Graph, ctx: Context) -> None:
        ctx.count("ran")


@dataclass(frozen=True, kw_only=True)
class Rests(Pass):
    """Have nothing to do."""

    provides = ("rested",)

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        return "everything is done"

    def run(self, graph: Graph, ctx: Context) -> None:
        raise AssertionError("a pass that has nothing to do must not run")


@dataclass(frozen=True, kw_only=True)
class OfBoxHeads(DetectorPass[BoxHead]):
    """Count classes."""

    noun = "box head"

    @staticmethod
    def part(spec: DetectorSpec) -> BoxHead | None:
        return spec.box_head

    def rewrite(self, graph: Graph, ctx: Context, part: BoxHead) -> None:
        ctx.count("classes", part.num_classes)


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "small.onnx")
    return Graph.load(tmp_path / "small.onnx")


def without_parts() -> DetectorSpec:
    image = ImageInput("x", 32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "BGR", True, "x")
    return DetectorSpec(family="none", image=image, outputs=Outputs("boxes", None, None))


CLAIMS = {
    "opset": "the graph has opset",
    "detector": "the context holds no DetectorSpec",
    "normalized-input": "no tensor is known as the normalised image",
    "decoded-boxes": "no level has candidates",
    "dense-candidates": "no level has candidates",
    "proposals": "no tensor is known as the proposals",
    "pooled": "no tensor is known as the boxes that the box head pools",
    "detections": "no output is known as num_detections",
    "named-outputs": "output 'features' is not called what a result is called",
}


@pytest.mark.parametrize(("fact", "problem"), CLAIMS.items())
def test_a_fact_that_does_not_hold_is_the_claiming_passs_fault(graph: Graph, fact: str, problem: str) -> None:
    ctx = Context()
    with pytest.raises(PassError, match=f"'claim': says that it provides '{fact}', but {problem}"):
        PassManager([Claim(fact=fact)]).run(graph, ctx)
    assert ctx.facts == set()


def test_anchors_are_those_of_the_detectors_levels(graph: Graph) -> None:
    ctx = Context(detector=without_parts(), anchors=[np.zeros((4, 4), np.float32)])
    with pytest.raises(PassError, match="there are anchors of 1 levels, the detector has 0"):
        PassManager([Claim(fact="anchors")]).run(graph, ctx)


def small(body: str, outputs: str = "float[2] y") -> Graph:
    return parse_graph(f'<ir_version: 10, opset_import: ["" : 19, "onnxgraft" : 1]>\ng (float[2] x) => ({outputs}) {body}')


BROKEN = [
    ("quantized", "<float s = {1.0}, int8 z = {0}> { q = QuantizeLinear(x, s, z) y = Cast<to=1>(q) }", "are for a Dequantize"),
    ("quantized", "<float s = {-1.0}, int8 z = {0}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
     "is not a positive constant"),
    ("integer-kernels", "<float s = {1.0}, int8 z = {0}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
     "rounds activations to int8"),
    ("lowered", "{ y = onnxgraft.UncappedNMS(x) }", "neither handed over nor a function"),
]  # fmt: skip


@pytest.mark.parametrize(("fact", "body", "problem"), BROKEN)
def test_claims_about_operators_are_checked(fact: str, body: str, problem: str) -> None:
    with pytest.raises(PassError, match=problem):
        PassManager([Claim(fact=fact)]).run(small(body), Context())


@pytest.mark.parametrize("fact", ["fp16", "bf16"])
def test_half_precision_stays_inside(fact: str) -> None:
    with pytest.raises(PassError, match="'y', an input or output, is float16"):
        PassManager([Claim(fact=fact)]).run(small("{ y = Cast<to=10>(x) }", "float16[2] y"), Context())
    PassManager([Claim(fact=fact)]).run(small("{ h = Cast<to=10>(x) y = Cast<to=1>(h) }"), Context())


def test_a_name_of_nobodys_is_a_fact_without_a_check(graph: Graph) -> None:
    ctx = Context()
    PassManager([Claim(fact="blessed"), Needs(fact="blessed")]).run(graph, ctx)
    assert ctx.facts == {"blessed"}
    with pytest.raises(PassError, match="'needs': requires 'blessed'; claim provides it, but comes later"):
        PassManager([Needs(fact="blessed"), Claim(fact="blessed")])


def test_a_pass_with_nothing_to_do_is_skipped_with_its_reason_and_gives_no_fact(graph: Graph) -> None:
    ctx = Context()
    report = PassManager([Rests(), Simplify()], fingerprints=False).run(graph, ctx)
    assert (report["rests"].skipped, report["rests"].changed) == ("everything is done", False)
    assert (report["simplify"].skipped, report["simplify"].changed) == (None, True)
    assert ctx.facts == {"simplified"}
    assert "skipped: everything is done" in report._repr_html_()


def test_what_a_skipped_pass_would_have_given_cannot_be_required(graph: Graph) -> None:
    with pytest.raises(PassError, match="'needs': requires 'rested', but nothing before it gave that"):
        PassManager([Rests(), Needs(fact="rested")]).run(graph, Context())


def test_a_skipped_pass_does_not_hide_what_holds_anyway(graph: Graph) -> None:
    """A graph of a newer opset needs no upgrade, and is of that opset all the same."""
    graph.gs.opset = 21
    ctx = Context()
    report = PassManager([UpgradeOpset(), Needs(fact="opset")]).run(graph, ctx)
    assert report["upgrade-opset"].skipped == "the graph has opset 21"
    assert report["needs"].statistics == {"ran": 1}
    assert "opset" not in ctx.facts


def test_given_facts_hold_before_the_first_pass(graph: Graph) -> None:
    ctx = Context()
    PassManager([Needs(fact="rested")], given=["rested"]).run(graph, ctx)
    assert ctx.facts == {"rested"}


def test_a_repeat_gives_the_facts_of_the_passes_that_ran(graph: Graph) -> None:
    ctx = Context()
    report = PassManager([Repeat(steps=(Rests(), Simplify()))]).run(graph, ctx)
    assert ctx.facts == {"simplified"}
    assert report["repeat"].skipped is None
    assert PassManager([Repeat(steps=(Rests(),))]).run(graph, Context()).records[0].skipped == "everything is done"
    with pytest.raises(PassError, match="'claim': says that it provides 'detector', but the context holds no"):
        PassManager([Repeat(steps=(Claim(fact="detector"),))]).run(graph, Context())


def test_a_pass_of_a_part_runs_where_the_detector_has_it(graph: Graph) -> None:
    ctx = Context(detector=without_parts())
    record = PassManager([OfBoxHeads()], given=["detector"]).run(graph, ctx).records[0]
    assert (record.skipped, record.statistics) == ("the detector has no box head", {})
    with pytest.raises(PassError, match="'of-box-heads': no detector was recognised yet"):
        PassManager([OfBoxHeads()], given=["detector"]).run(graph, Context())
    assert InjectAnchors().applies(graph, ctx) == "the detector has no anchors"


def test_a_value_that_was_not_made_names_what_makes_it() -> None:
    values = DetectorValues()
    for name, makers in (("normalized", "fix-input"), ("levels", "decode-boxes or dense-decode"),
                         ("proposals", "rpn-nms or take-proposals"), ("pooled", "roi-align")):  # fmt: skip
        assert not values.has(name)
        with pytest.raises(OnnxgraftError, match=f"which {makers} makes and which was not made before it"):
            getattr(values, name)
    with pytest.raises(OnnxgraftError, match="needs the detections' boxes, which box-nms or dense-nms makes"):
        values.results[Role.BOXES]
    values.proposals = ProposalValues("boxes", "valid")
    assert values.has("proposals")
    assert values.proposals.boxes == "boxes"


def test_a_copied_context_is_its_own() -> None:
    ctx = Context(facts={"opset"}, anchors=[np.zeros((2, 4), np.float32)], ranges=Ranges({"a": 1.0}), detector=without_parts())
    ctx.values.levels, ctx.values.normalized = [LevelValues("b", "s")], "x"
    ctx.lowering["nms"] = NmsLowering(grouping="box")
    copied = ctx.copy()
    assert vars(copied.values) == vars(ctx.values)
    assert copied.anchors[0] is ctx.anchors[0]
    assert copied.ranges is ctx.ranges
    assert copied.detector is ctx.detector
    copied.values.levels.append(LevelValues("c", "t"))
    copied.values.results[Role.BOXES] = "boxes"
    copied.facts.add("detector")
    copied.anchors.append(np.zeros((1, 4), np.float32))
    copied.notes.append("a note")
    copied.lowering.clear()
    assert [level.boxes for level in ctx.values.levels] == ["b"]
    assert Role.BOXES not in ctx.values.results
    assert (ctx.facts, len(ctx.anchors), ctx.notes, set(ctx.lowering)) == ({"opset"}, 1, [], {"nms"})


def test_ranges_of_another_graph_are_not_taken() -> None:
    known = Ranges({"a": 1.0, "b": 2.0})
    graph = small("{ y = Relu(x) }")
    assert known.ranges(graph, Context(), [["a"], ["b"]]) is known
    with pytest.raises(OnnxgraftError, match="do not have tensor 'c'"):
        known.ranges(graph, Context(), [["a", "c"]])


def test_passes_say_why_they_change_answers() -> None:
    assert [step().changes_answers for step in (BoxNMS, DenseNMS, RpnNMS, Simplify, NameOutputs)] == [""] * 5
    assert BoxNMS(score_threshold=0.5).changes_answers == "you chose another score threshold"
    assert DenseNMS(iou_threshold=0.5, detections=9).changes_answers == (
        "you chose another IoU threshold and number of detections"
    )
    assert RpnNMS(score_threshold=0.1).changes_answers
    assert all(step().changes_answers for step in (Fp16, Quantize, IntegerKernels, RepairRoiAlign))
    assert Repeat(steps=(Simplify(), BoxNMS(detections=5))).changes_answers == "you chose another number of detections"


def test_portable_forms_compute_on_the_cpu_what_an_engine_does() -> None:
    assert Fp16(keep="rpn").portable() == Fp16(keep="rpn", emulate=True)
    assert UpgradeOpset(version=22).portable() == UpgradeOpset()
    assert LowerPlugins(target="tensorrt", nms="plugin").portable() == LowerPlugins()
    sampled = LowerPlugins(target="tensorrt-rtx", roi_sampling="fixed2", max_candidates=500)
    assert sampled.portable() == LowerPlugins(roi_align="native", roi_sampling="fixed2", nms="native", max_candidates=500)
    assert Repeat(steps=(Fp16(),)).portable() == Repeat(steps=(Fp16(emulate=True),))
    for step in (Simplify(), IntegerKernels(), BoxNMS(detections=3)):
        assert step.portable() is step


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_is_required_is_provided_and_known_by_name(target: str, precision: str) -> None:
    options = CompileOptions(precision=precision)
    required = {fact for step in default_pipeline(options, target).passes for fact in step.required()}
    assert all(getattr(facts, fact.name.upper().replace("-", "_")) is fact for fact in required)
