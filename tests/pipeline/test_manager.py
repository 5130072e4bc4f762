"""The manager decides what changed, refuses impossible orders, and pipelines survive as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx.parser
import pytest
from helpers.small_models import BAD, MODEL

import onnxgraft
from onnxgraft import Context, Graph, InputError, Instrument, Pass, PassError, PassManager, Pipeline, Registry
from onnxgraft.instruments import PrintText, Texts
from onnxgraft.options import CompileOptions
from onnxgraft.passes import FixInput, InjectAnchors, Simplify
from onnxgraft.passes.default import default_pipeline, known_passes, parse_pipeline
from onnxgraft.pipeline.registry import load_file
from onnxgraft.pipeline.repeat import Repeat


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    return path


@pytest.fixture
def registry() -> Registry:
    return known_passes([BAD])


@dataclass(frozen=True, kw_only=True)
class ScaleBias(Pass):
    """Multiply every bias."""

    modifies: ClassVar[tuple[str, ...]] = ("weights",)
    factor: float = 2.0
    exact: bool = False
    title: str | None = None

    def run(self, graph: Graph, ctx: Context) -> None:
        for node in graph.nodes:
            if node.op == "Conv":
                node.inputs[2].values = np.asarray(node.inputs[2].values) * np.float32(self.factor)


def test_changed_is_the_managers_word(model: Path, registry: Registry) -> None:
    steps = [registry["nothing-at-all"](), Simplify(), ScaleBias(factor=1.0), ScaleBias(), ScaleBias()]
    report = PassManager(steps).run(Graph.load(model))
    assert [record.changed for record in report.records] == [False, True, False, True, True]


def test_a_second_run_of_simplify_changes_nothing(model: Path) -> None:
    report = PassManager([Simplify(), Simplify()], [Texts()]).run(Graph.load(model))
    assert "Identity" in report.records[0].diff
    assert report.records[1].diff == ""
    assert report["simplify"] is report.records[1]
    with pytest.raises(KeyError):
        report["nothing"]


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
def test_default_pipelines_round_trip(target: str) -> None:
    pipeline = default_pipeline(CompileOptions(batch=4, score_threshold=0.25, image_sizes=True), target)
    assert parse_pipeline(str(pipeline)) == pipeline


@pytest.mark.parametrize(
    "text",
    [
        "simplify",
        "scale-bias{factor=0.5,exact=true,title=a b}",
        "repeat(simplify)",
        "simplify,repeat{max=2}(simplify,repeat(flips,scale-bias{factor=3.0})),fix-input{height=640}",
    ],
)
def test_text_round_trips(text: str, registry: Registry) -> None:
    registry.add(ScaleBias)
    pipeline = Pipeline.parse(text, registry)
    assert str(pipeline) == text
    assert Pipeline.parse(str(pipeline), registry) == pipeline


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simplfy", "did you mean 'simplify'"),
        ("simplify{speed=3}", "no option 'speed=3'; options: none"),
        ("fix-input{height=tall}", r"fix-input\{height\}: 'tall' is not a whole number"),
        ("simplify;fix-input", "cannot read 'simplify;fix-input'"),
        ("repeat", "repeat needs passes"),
        ("repeat(simplify", "not closed"),
        ("simplify)", "cannot read"),
        ("simplify(simplify)", "holds no passes"),
        ("", "no pass is named"),
    ],
)
def test_unreadable_text_says_where(text: str, message: str, registry: Registry) -> None:
    with pytest.raises(InputError, match=message):
        Pipeline.parse(text, registry)


def test_impossible_order_names_the_missing_fact() -> None:
    with pytest.raises(PassError, match="'inject-anchors': requires 'static-input'; fix-input provides it, but comes later"):
        PassManager([InjectAnchors(), Simplify(), FixInput()])
    with pytest.raises(PassError, match="requires 'simplified'; no pass of this pipeline provides it"):
        PassManager([Repeat(steps=(FixInput(),))])
    PassManager([Repeat(steps=(Simplify(),)), FixInput(), InjectAnchors()])


def test_skip_and_stop_after() -> None:
    pipeline = parse_pipeline("upgrade-opset,simplify,repair-roi-align")
    assert str(pipeline.skip("simplify")) == "upgrade-opset,repair-roi-align"
    assert str(pipeline.stop_after("simplify")) == "upgrade-opset,simplify"
    with pytest.raises(InputError, match="has no pass 'fix-input'; it has upgrade-opset, simplify"):
        pipeline.skip("fix-input")
    with pytest.raises(InputError):
        pipeline.stop_after("fix-input")


def test_print_after_and_print_changed(model: Path, registry: Registry) -> None:
    chosen: list[str] = []
    changed: list[str] = []
    steps = [registry["nothing-at-all"](), Simplify()]
    PassManager(steps, [PrintText(chosen.append, "nothing-at-all"), PrintText(changed.append)]).run(Graph.load(model))
    assert [text.splitlines()[0] for text in chosen] == ["# after nothing-at-all"]
    assert [text.splitlines()[0] for text in changed] == ["# after simplify"]


def test_an_instrument_can_leave_a_pass_out(model: Path) -> None:
    class Never(Instrument):
        def should_run(self, step: Pass, graph: Graph, ctx: Context) -> bool:
            return False

    assert PassManager([Simplify()], [Never()]).run(Graph.load(model)).records == []


def test_repeat_runs_until_nothing_changes(model: Path) -> None:
    report = PassManager([Repeat(steps=(Simplify(),))]).run(Graph.load(model))
    assert report.records[0].statistics["rounds"] == 2
    assert report.records[0].name == "repeat"


def test_files_without_passes_are_refused(tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty.py", tmp_path / "broken.py"
    empty.write_text("x = 1\n")
    broken.write_text("import nothing_of_that_name\n")
    for path, message in ((empty, "defines no Pass"), (broken, "cannot be loaded"), (tmp_path / "no.py", "no such file")):
        with pytest.raises(InputError, match=message):
            load_file(path)


def test_entry_points_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_package.py"
    package.write_text(BAD.read_text())
    info = tmp_path / "their_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[onnxgraft.passes]\nflips = their_package:Flips\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert known_passes()["flips"].__module__ == "their_package"


def test_public_names_exist() -> None:
    assert all(hasattr(onnxgraft, name) for name in onnxgraft.__all__)
