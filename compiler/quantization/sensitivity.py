"""Which layers suffer from int8: each one is quantized alone, and what that does to the detections is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxgraft.analysis.regions import find_regions
from onnxgraft.instruments.stage import feeder, stage_detections
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import infer_shapes, is_static
from onnxgraft.passes import Quantize
from onnxgraft.pipeline.context import RangeSource
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.quantization.calibrate import Prepared
from onnxgraft.quantization.ranges import Provider
from onnxgraft.runtime.comparison import box_iou
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.images import Placement
from onnxgraft.runtime.postprocess import ImageDetections, to_original
from onnxgraft.targets import OrtRunner

Progress = Callable[[int, int, str], None]
RANKING, JUDGING = 4, 60  # pictures; AP over fewer tells nothing of a budget of 0.002
_IOU = 0.5  # a detection is found again from here on
_UNSEEN = 100_000  # seeds from here on are in no calibration or evaluation
_LEAST_SCORE = 0.3  # what scores less comes and goes with rounding


@dataclass(frozen=True)
class Damage:
    """One layer: its name (see passes.regions), its kind, and the share of the detections' score that it costs."""

    layer: str
    kind: str
    damage: float


class Variants:
    """One network in many precisions: the prepared graph is kept as a file and quantized anew for each."""

    def __init__(self, prepared: Prepared, provider: Provider, folder: Path) -> None:
        self._file, self._folder = folder / "fp32.onnx", folder
        self._ctx, self._rule = prepared.ctx, prepared.rule
        self._ranges: RangeSource = provider
        prepared.graph.save(self._file)
        _know_shapes(prepared.graph)
        self.layers = find_regions(prepared.graph, prepared.ctx).layers

    def detector(self, quantized: Sequence[str]) -> Callable[[NDArray[np.uint8]], Detections]:
        """The network with only these layers in int8.

        Args:
            quantized: names of layers, see `layers`.

        Returns:
            What runs it on one picture, uint8 [H, W, 3] BGR of any size, and gives detections in pixels of the canvas.
        """
        graph, ctx = Graph.load(self._file), self._ctx.copy()
        ctx.range_source = self._ranges
        if quantized:
            kept = [name for name in self.layers if name not in set(quantized)]
            quantize = Quantize(keep="+".join(kept) or "none")
            PassManager([quantize], fingerprints=False, given=ctx.facts).run(graph, ctx)
            self._ranges = ctx.ranges or self._ranges  # measured once, for all variants
        path = self._folder / "variant.onnx"
        graph.save(path)
        runner, feeds = OrtRunner(path), feeder(graph, ctx, self._rule)

        def detect(image: NDArray[np.uint8]) -> Detections:
            return stage_detections(runner(feeds([image])), ctx, feeds.io)

        return detect

    def in_picture(self, found: Detections, picture: NDArray[np.uint8]) -> ImageDetections:
        """Detections on the canvas in pixels of the picture (uint8 [H, W, 3]), as annotations have them."""
        image = self._ctx.spec().image
        placement = Placement.of((picture.shape[0], picture.shape[1]), (image.height, image.width), self._rule)
        return to_original(found, placement)


def damage(reference: Detections, found: Detections) -> float:
    """The share of the reference's score that is lost: 0 when every detection is found again with its box and score.

    Each reference detection is worth its score; of that, its best partner of the same class keeps IoU x the ratio of
    the scores. A semantic map loses the share of its cells that change class; beside detections it counts as much as they.
    """
    lost = _detections_lost(reference, found)
    if reference.semantic is None or found.semantic is None:
        return lost
    changed = float((reference.semantic.argmax(axis=0) != found.semantic.argmax(axis=0)).mean())
    return (lost + changed) / 2 if len(reference) else changed


def _detections_lost(reference: Detections, found: Detections) -> float:
    sure = reference.select(reference.scores >= _LEAST_SCORE)
    total = float(sure.scores.sum())
    if total == 0:
        return 0.0
    overlap = box_iou(sure.boxes, found.boxes) * (sure.classes[:, None] == found.classes[None, :])
    ratio = found.scores[None, :] / sure.scores[:, None]
    kept = np.where(overlap >= _IOU, overlap * np.minimum(ratio, 1 / np.maximum(ratio, 1e-6)), 0.0)
    best = kept.max(axis=1, initial=0.0)
    return float(1 - (best * sure.scores).sum() / total)


def rank(
    variants: Variants, images: Sequence[NDArray[np.uint8]], progress: Progress = lambda done, total, name: None
) -> list[Damage]:
    """All layers, the most damaged first.

    Args:
        variants: the network.
        images: pictures to run, uint8 [H, W, 3] BGR of any size.
        progress: called with (layers done, layers in all, name of the next).
    """
    plain = variants.detector([])
    references = [plain(image) for image in images]
    rows = []
    for number, (name, node) in enumerate(variants.layers.items()):
        progress(number, len(variants.layers), name)
        detect = variants.detector([name])
        harm = [damage(r, detect(image)) for r, image in zip(references, images, strict=True)]
        rows.append(Damage(name, node.op, float(np.mean(harm))))
    progress(len(variants.layers), len(variants.layers), "")
    return sorted(rows, key=lambda row: -row.damage)


def _know_shapes(graph: Graph) -> None:
    """Infer what is not known in numbers: what pooled rows flow through still has the export's unknown count of rows."""
    for node in graph.nodes:
        for tensor in node.outputs:
            if not is_static(tensor):
                tensor.shape = None
    infer_shapes(graph)


