"""The file as it was given and the compiled graph, as two things that answer for pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxgraft.analysis.canvas import refuse_own_resize
from onnxgraft.analysis.counted_classes import counted_forms
from onnxgraft.analysis.output_forms import undo_forms
from onnxgraft.detector.chosen import Chosen
from onnxgraft.detector.output_forms import OutputForm, given_name
from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import WHITE, DetectorSpec
from onnxgraft.ir.evaluate import run_everywhere
from onnxgraft.ir.folding import settle
from onnxgraft.ir.graph import PLUGIN_DOMAIN, Graph
from onnxgraft.ir.traverse import ancestors
from onnxgraft.manifest import GraphIO
from onnxgraft.passes.emit.boxes import just_above
from onnxgraft.passes.emit.plain_input import make_plain
from onnxgraft.passes.fix_input import resize_image
from onnxgraft.plugins.efficient_nms import DENSE
from onnxgraft.proof.feeds import Picture, build_feeds, file_feeds
from onnxgraft.proof.sides import Sides
from onnxgraft.proof.thresholds import lower_comparisons, same_number
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.read_outputs import from_outputs, from_raw_export
from onnxgraft.targets import OrtRunner


class FileModel:
    """The file as it was given, after the passes that give back what the export lost, with an input of one size.

    Args:
        graph: the file's graph, as its witness kept it.
        spec: what was recognised.
        size: height and width of the pictures.
        folder: where the graph is written for ONNX Runtime.
        rows: proposals that a Fast R-CNN gets.
        forms: outputs of another form than detectron2's, as they are for pictures of this size.

    Attributes:
        white: what white is in the file's input.
    """

    def __init__(
        self, graph: Graph, spec: DetectorSpec, size: tuple[int, int], folder: Path, rows: int = 1000,
        forms: Sequence[OutputForm] = (),
    ) -> None:  # fmt: skip
        self.spec, self.size, self._rows, self.white = spec, size, rows, WHITE
        self.graph, self._forms = graph, forms
        fix_size(self.graph, size)
        self._file = folder / "file.onnx"
        self._runner: OrtRunner | None = None
        self._own = [t.name for t in self.graph.gs.outputs]
        self._most: int | None = None

    def choose(self, chosen: Chosen) -> bool:
        """Take these numbers in place of its own. False where the place of one is not found, or it keeps fewer detections."""
        head = self.spec.box_head or self.spec.dense
        if head is None or (chosen.detections or 0) > head.detections_per_image:
            return False
        score, iou = chosen.score_threshold, chosen.iou_threshold
        if score not in (None, head.score_threshold) and not self.lower(head.score_threshold, score or 0.0):
            return False
        if iou not in (None, head.nms_threshold) and not self._suppress(head.nms_threshold, iou or 0.0):
            return False
        self.spec, self._most = chosen.of(self.spec), chosen.detections
        return True

    def _suppress(self, old: float, new: float) -> bool:
        """Let the suppression nearest to the scores have another threshold. False where none with the old one is found."""
        scores = self.graph.tensor(given_name(self.spec.outputs.scores_tensor, self._forms))
        nearest, found = next(((n, held) for n in ancestors(scores) if (held := _suppressions(n))), (None, []))
        for node in found:
            if nearest is None or len(node.inputs) <= 3 or not same_number(node.inputs[3], old):
                return False
            node.inputs[3] = gs.Constant(f"{nearest.name}/chosen", np.array([new], np.float32))
        self._runner = None
        return bool(found)

    def find(self, names: Sequence[str]) -> bool:
        """Make tensors outputs, so that `look` gives them; False where the file has none of that name outside of branches."""
        made = {t.name: t for node in self.graph.nodes for t in node.outputs}
        if any(name not in made for name in names):
            return False
        for name in names:
            if all(t.name != name for t in self.graph.gs.outputs):
                made[name].dtype = made[name].dtype or np.dtype(np.float32)
                self.graph.gs.outputs.append(made[name])
                self._runner = None
        return True

    def look(self, picture: Picture) -> dict[str, NDArray[Any]]:
        """All outputs for one picture, uint8 BGR."""
        if self._runner is None:
            run_everywhere(self.graph)
            self.graph.save(self._file)
            self._runner = OrtRunner(self._file)
        return self._runner(file_feeds(self.graph.gs.inputs, picture, self.spec.image.exported_order, self._rows, self.white))

    def __call__(self, picture: Picture) -> Detections:
        """What the file detects, in pixels."""
        spec = self.spec
        semantic = spec.semantic.logits_tensor if spec.semantic is not None else None
        if semantic is not None and not self.find([semantic]):
            semantic = None
        inner = [semantic, *(form.taken for form in self._forms if form.decoded and self.find([form.taken]))]
        outputs = self.look(picture)
        if spec.outputs.boxes_tensor is None:
            return Detections.of([], [], [], semantic=outputs[semantic or spec.outputs.semantic_tensor or ""][0])
        roles = dataclasses.replace(spec.outputs, semantic_tensor=semantic) if semantic else spec.outputs
        known = {name: a for name, a in outputs.items() if name in self._own or name in inner}
        found = from_raw_export(known, roles, self._forms)
        if spec.box_head is None and spec.dense is None:  # an RPN on its own gives logits, the build their probabilities
            found = dataclasses.replace(found, scores=(1 / (1 + np.exp(-found.scores))).astype(np.float32))
        return found if self._most is None else found.select(slice(self._most))

    def lower(self, old: float, new: float) -> bool:
        """Let another score threshold hold. False where the comparison with the old one is not found, or is one of several:
        boxes are compared with 0 as well."""
        named = [t for t in self.graph.gs.outputs if t.name == given_name(self.spec.outputs.scores_tensor, self._forms)]
        self._runner = None
        return lower_comparisons(named[0] if named else None, old, new)


def fix_size(graph: Graph, size: tuple[int, int]) -> None:
    """Let a file take pictures of a size, in place; untouched where that is its own.

    Raises:
        Refusal: it resizes pictures itself, which the build does not.
    """
    if not set(size) <= set(graph.gs.inputs[0].shape or ()):
        make_plain(graph)
        refuse_own_resize(graph, size)
        resize_image(graph, *size)


def forms_at(graph: Graph, spec: DetectorSpec, size: tuple[int, int]) -> Sequence[OutputForm]:
    """The forms of a file's outputs for pictures of a size: boxes are divided by that, or by the size that was traced.

    graph: the file's, which is lost.
    """
    canvas = spec.image.height, spec.image.width
    if size == canvas or all(form.size is None for form in spec.output_forms):
        return spec.output_forms
    fix_size(graph, size)
    settle(graph)
    return counted_forms(undo_forms(graph, size, canvas), spec)


def _suppressions(node: gs.Node) -> list[gs.Node]:
    """A node where it suppresses boxes, or those in its branches that do."""
    inner = [n for held in node.attrs.values() if isinstance(held, gs.Graph) for n in held.nodes]
    return [n for n in (node, *inner) if n.op == "NonMaxSuppression"]


@dataclasses.dataclass(frozen=True)
class Delivered:
    """What a build leaves for ONNX Runtime to run.

    path: the file. io: its inputs and outputs. typed: why it answers otherwise than fp32 by intent ("rounds to fp16"); empty
    where it must not. kind: what it is called: its precision, or what was chosen. native: of a typed one, the same graph in its
    target's form with the file's numbers, where that is not the one with functions.
    """

    path: Path
    io: GraphIO
    typed: str = ""
    kind: str = "fp32"
    native: Delivered | None = None

    @property
    def untyped(self) -> Delivered | None:
        """It with the file's numbers; None where that is the graph before it is lowered."""
        return self.native if self.typed else self


class BuildModel:
    """The compiled graph: as it is delivered, or with its plugin ops as functions.

    Attributes:
        delivered: the file that is run; None where it is the graph before it is lowered.
    """

    def __init__(self, sides: Sides, folder: Path, delivered: Delivered | None = None) -> None:
        self._sides, self._path = sides, folder / "build.onnx"
        self.delivered = delivered
        self._runner: OrtRunner | None = None
        self._drops_none = False

    @property
    def batch(self) -> int:
        return self._sides.ctx.batch

    def __call__(self, pictures: Sequence[Picture]) -> list[Detections]:
        """What the build detects on a batch of pictures that lie on the canvas, in its pixels."""
        if self._runner is None:
            if self.delivered is None:
                run_everywhere(self._sides.build)
                self._sides.build.save(self._path)
            self._runner = OrtRunner(self._path if self.delivered is None else self.delivered.path)
        image, io = self._sides.spec.image, self.delivered.io if self.delivered else self._sides.ctx.io
        mean = image.mean if image.order == "BGR" else image.mean[::-1]
        outputs = self._runner(build_feeds(io, pictures, (image.height, image.width), mean))
        found = [from_outputs(outputs, io, index) for index in range(len(pictures))]
        return [f.select(f.scores > 0) for f in found] if self._drops_none else found

    def lower(self, old: float, new: float) -> bool:
        """Let another score threshold hold in the suppression that makes the detections.

        Below its knee the plugin counts rows that do not pass as well, with scores below 0. A graph whose own threshold lies
        above the knee drops none of them; one below it does, and is held to that.
        """
        number = self._sides.tensor(self._sides.ctx.values.results[Role.NUM_DETECTIONS])
        dense = self._sides.spec.dense
        if dense is not None and dense.class_topk is not None:  # whose suppression has ranks
            self._runner = self.delivered = None  # as below
            return lower_comparisons(number, old, new)
        for node in ancestors(number):
            if node.domain == PLUGIN_DOMAIN and "score_threshold" in node.attrs:
                own = node.attrs["score_threshold"]
                scale = own / just_above(old)  # a power of two, which the scores have as well
                node.attrs["score_threshold"] = just_above(new) * scale
                self._drops_none = own >= DENSE
                self._runner = self.delivered = None  # the numbers of a delivered graph stand in too many places
                return True
        return False
