"""Recognition of RetinaNet and FCOS: every number is read from the graph alone, and what is unknown is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import pytest
from helpers import dense_members, exports

from onnxgraft.analysis import analyse
from onnxgraft.detector.describe import spec_rows
from onnxgraft.detector.sidecar import Sidecar
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import InputError, PassError, Refusal
from onnxgraft.ir.folding import settle
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.tools.inspect import inspect

STRIDES = [8, 16, 32, 64, 128]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dense")


def load(family: str, cache: Path, variant: str = "") -> onnx.ModelProto:
    return onnx.load(dense_members.model(family, cache, variant))


def read(model: onnx.ModelProto, folder: Path) -> DetectorSpec:
    onnx.save(model, folder / "model.onnx")
    return inspect(folder / "model.onnx")[0]


def check_numbers(spec: DetectorSpec, family: str) -> None:
    head = spec.dense
    assert head is not None
    assert spec.family == family
    assert (spec.image.height, spec.image.width) == (256, 320)
    assert [level.stride for level in head.levels] == STRIDES
    assert [(level.height, level.width) for level in head.levels] == [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)]
    assert [level.topk for level in head.levels] == [1000] * 5
    assert (head.num_classes, head.detections_per_image) == (7, 100)
    if family == "retinanet":
        assert (head.score_threshold, head.nms_threshold) == (0.05, 0.5)
        assert head.coder is not None
        assert head.coder.weights == (1.0, 1.0, 1.0, 1.0)
        assert head.coder.scale_clamp == pytest.approx(np.log(1000 / 16), abs=1e-6)
        sizes = [[4 * s * 2 ** (octave / 3) for octave in range(3)] for s in STRIDES]
        ratios, offset = (0.5, 1.0, 2.0), 0.0
    else:
        assert (head.score_threshold, head.nms_threshold) == (0.2, 0.6)
        assert head.coder is None
        sizes, ratios, offset = [[s] for s in STRIDES], (1.0,), 0.5
    for level, of_level in zip(head.levels, sizes, strict=True):
        cells = [[-s / r**0.5 / 2, -s * r**0.5 / 2, s / r**0.5 / 2, s * r**0.5 / 2] for s in of_level for r in ratios]
        np.testing.assert_allclose(level.cell_anchors, cells, rtol=1e-4)
        assert level.anchor_offset == offset
        assert (level.centerness_tensor is None) == (family == "retinanet")


@pytest.mark.parametrize("variant", ["", "@opset11"])
@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_every_number_is_read_from_a_graph_without_names(family: str, variant: str, cache: Path, tmp_path: Path) -> None:
    check_numbers(read(exports.rename(load(family, cache, variant)), tmp_path), family)


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_a_graph_through_onnxsim_reads_the_same(family: str, cache: Path, tmp_path: Path) -> None:
    simplified, _ = onnxsim.simplify(load(family, cache))
    spec = read(simplified, tmp_path)
    check_numbers(spec, family)
    assert spec_rows(spec) == spec_rows(inspect(dense_members.model(family, cache))[0])


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_the_sidecar_agrees(family: str, cache: Path) -> None:
    spec, _ = inspect(dense_members.model(family, cache))
    config = dense_members.meta(family)["config"]
    Sidecar(Path("meta.json"), (), config).check(spec)
    with pytest.raises(InputError, match=r"dense\.topk is 900, but the graph has 1000"):
        Sidecar(Path("meta.json"), (), {**config, "dense": {**config["dense"], "topk": 900}}).check(spec)


def test_features_are_what_both_towers_read(cache: Path) -> None:
    graph = Graph.load(dense_members.model("fcos", cache))
    settle(graph)
    spec = analyse(graph)
    assert spec.dense is not None
    for level in spec.dense.levels:
        readers = [node for node in graph.tensor(level.feature_tensor).outputs if node.op == "Conv"]
        assert len(readers) >= 2
        assert graph.tensor(level.feature_tensor).shape == [1, 64, level.height, level.width]


def of_first_level(model: onnx.ModelProto, op: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.op_type == op and "head" not in n.name and "backbone" not in n.name)


def threshold(model: onnx.ModelProto) -> None:
    """Of one level another threshold than of the others."""
    constant = of_first_level(model, "Greater").input[1]
    node = next(n for n in model.graph.node if constant in n.output)
    changed = onnx.helper.make_node("Constant", [], ["other"], value=onnx.numpy_helper.from_array(np.array(0.07, np.float32)))
    of_first_level(model, "Greater").input[1] = "other"
    model.graph.node.insert(list(model.graph.node).index(node), changed)


def score(model: onnx.ModelProto) -> None:
    """A HardSigmoid where RetinaNet has a sigmoid."""
    of_first_level(model, "Sigmoid").op_type = "HardSigmoid"


def growth(model: onnx.ModelProto) -> None:
    """Widths that grow another way than by exp."""
    for node in model.graph.node:
        if node.op_type == "Exp":
            node.op_type = "Softplus"


def distances(model: onnx.ModelProto) -> None:
    """FCOS without the ReLU on its distances: boxes may have their sides in the wrong order."""
    for node in model.graph.node:
        if node.op_type == "Relu" and "head" not in node.name and "backbone" not in node.name:
            node.op_type = "Abs"


def strict(model: onnx.ModelProto) -> None:
    of_first_level(model, "Greater").op_type = "GreaterOrEqual"


def extra(model: onnx.ModelProto) -> None:
    """A fourth result: one number a detection."""
    scores = next(
        o.name for o in model.graph.output if o.type.tensor_type.elem_type == 1 and len(o.type.tensor_type.shape.dim) == 1
    )
    model.graph.node.append(onnx.helper.make_node("Sqrt", [scores], ["quality"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("quality", 1, ["n"]))


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("retinanet", threshold, "the levels' thresholds do not fit together"),
        ("retinanet", score, r"scores differ from sigmoid\(class\) by .*: another head than RetinaNet's or FCOS's"),
        ("fcos", score, r"scores differ from sqrt\(sigmoid\(class\) sigmoid\(centerness\)\) by"),
        ("retinanet", growth, "another box coder than Box2BoxTransform|which no constant of the graph explains"),
        ("fcos", distances, "box decoding differs from Box2BoxTransformLinear in anchor sizes by"),
        ("retinanet", strict, "the candidates of this TopK are not those above a constant score"),
        ("retinanet", extra, "output 'quality' .* looks like scores, which output .* gives: an output of your own"),
    ],
)
def test_unknown_variations_are_refused(
    family: str, change: Callable[[onnx.ModelProto], None], words: str, cache: Path, tmp_path: Path
) -> None:
    model = load(family, cache)
    change(model)
    with pytest.raises(Refusal, match=words):
        read(model, tmp_path)


def test_a_simplified_graph_keeps_its_size(cache: Path, tmp_path: Path) -> None:
    simplified, _ = onnxsim.simplify(load("retinanet", cache))
    onnx.save(simplified, tmp_path / "model.onnx")
    steps = default_pipeline(CompileOptions(size=(320, 320)), "onnxruntime").passes
    with pytest.raises(PassError, match=r"holds for 256x320 only: .* folded by a simplifier, .*take --size 256x320"):
        PassManager(steps, fingerprints=False).run(Graph.load(tmp_path / "model.onnx"), Context())
