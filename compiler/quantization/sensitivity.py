"""Which layers suffer from int8: each one is quantized alone, and what that does to the detections is measured."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxgraft import evaluation, golden
from onnxgraft.errors import InputError
from onnxgraft.folding import infer_shapes, is_static
from onnxgraft.golden_references import shapes
from onnxgraft.graph import Graph
from onnxgraft.instruments.numeric import stage_detections
from onnxgraft.manager import PassManager
from onnxgraft.passes import Quantize
from onnxgraft.passes.quantize import weight_axis
from onnxgraft.passes.regions import find_regions
from onnxgraft.quantization import pictures as picture_sets
from onnxgraft.quantization.collect import input_feeds
from onnxgraft.quantization.provider import Provider
from onnxgraft.quantization.run import CACHE, Prepared, prepare
from onnxgraft.runtime import coco
from onnxgraft.runtime._files import write_atomically
from onnxgraft.runtime.detections import Detections, canvas_size
from onnxgraft.runtime.images import Placement
from onnxgraft.runtime.infer import read_manifest
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
        self._ctx, self._rule, self._provider = prepared.ctx, prepared.rule, provider
        prepared.graph.save(self._file)
        _know_shapes(prepared.graph)
        self.layers = find_regions(prepared.graph, prepared.ctx).layers

    def detector(self, quantized: Sequence[str]) -> Callable[[NDArray[np.uint8]], Detections]:
        """Runs the network with only these layers in int8; detections on the canvas, in pixels."""
        graph, ctx = Graph.load(self._file), copy.copy(self._ctx)
        ctx.calibrate, ctx.notes = self._provider.ranges, []
        if quantized:
            kept = [name for name in self.layers if name not in set(quantized)]
            manager = PassManager([], fingerprints=False)
            manager.passes = [Quantize(keep="+".join(kept) or "none")]
            manager.run(graph, ctx)
        path = self._folder / "variant.onnx"
        graph.save(path)
        runner = OrtRunner(path)

        def detect(image: NDArray[np.uint8]) -> Detections:
            return stage_detections(runner(input_feeds(graph, ctx, [image] * ctx.batch, self._rule)), ctx)

        return detect

    def in_picture(self, found: Detections, picture: NDArray[np.uint8]) -> ImageDetections:
        """Detections on the canvas in the coordinates of the picture, as annotations have them."""
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
    overlap = _iou(sure.boxes, found.boxes) * (sure.classes[:, None] == found.classes[None, :])
    ratio = found.scores[None, :] / sure.scores[:, None]
    kept = np.where(overlap >= _IOU, overlap * np.minimum(ratio, 1 / np.maximum(ratio, 1e-6)), 0.0)
    best = kept.max(axis=1, initial=0.0)
    return float(1 - (best * sure.scores).sum() / total)


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = np.prod(np.maximum(high - low, 0), axis=2)
    area_a, area_b = (np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), axis=1) for x in (a, b))
    return np.asarray(inner / np.maximum(area_a[:, None] + area_b[None, :] - inner, 1e-9), np.float32)


def rank(
    variants: Variants, images: Sequence[NDArray[np.uint8]], progress: Progress = lambda done, total, name: None
) -> list[Damage]:
    """All layers, the most damaged first."""
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


@dataclass(frozen=True)
class Choice:
    """What an accuracy budget came to: the layers kept in fp16, the AP with them, without them, and in fp32.

    `cost` is the share of the network's multiplications that the kept layers do; `images` judged it.
    """

    budget: float
    images: int
    keep: str
    layers: int
    cost: float
    reference: tuple[float, float]
    all_int8: tuple[float, float]
    kept: tuple[float, float]

    @property
    def met(self) -> bool:
        return _loss(self.reference, self.kept) <= self.budget


def choose(
    variants: Variants,
    ranking: Sequence[Damage],
    budget: float,
    truth: evaluation.Truth,
    progress: Progress = lambda done, total, name: None,
) -> Choice:
    """The fewest layers, taken from the top of the ranking, whose fp16 keeps box and mask AP within `budget` of fp32.

    AP does not fall evenly, so small sets are tried first: 1, 2, 4 layers and so on, then those between the last two.
    """
    order = [row.layer for row in ranking]
    tried: dict[int, tuple[float, float]] = {}

    def ap(kept: int) -> tuple[float, float]:
        if kept not in tried:
            progress(len(tried), 2 * len(order).bit_length() + 2, f"{kept} layers kept")
            tried[kept] = _ap(variants, order[kept:], truth)
        return tried[kept]

    reference, everything = ap(len(order)), ap(0)
    low, high = 0, 0 if _loss(reference, everything) <= budget else min(1, len(order))
    while high < len(order) and high > low and _loss(reference, ap(high)) > budget:
        low, high = high, min(2 * high, len(order))  # all of them always meet it
    while high - low > 1:
        middle = (low + high) // 2
        if _loss(reference, ap(middle)) <= budget:
            high = middle
        else:
            low = middle
    keep = "+".join(sorted(order[:high])) or "none"
    work = {name: multiplications(node) for name, node in variants.layers.items()}
    cost = sum(work[name] for name in order[:high]) / max(sum(work.values()), 1)
    return Choice(budget, len(truth.ids), keep, high, cost, reference, everything, ap(high))


def _know_shapes(graph: Graph) -> None:
    """Infer what is not known in numbers: what pooled rows flow through still has the export's unknown count of rows."""
    for node in graph.nodes:
        for tensor in node.outputs:
            if not is_static(tensor):
                tensor.shape = None
    infer_shapes(graph)


def multiplications(node: gs.Node) -> int:
    """How many products a layer computes on one batch. Shapes must be known."""
    weights, channels = math.prod(node.inputs[1].shape), node.inputs[1].shape[weight_axis(node)]
    if node.op == "ConvTranspose":
        return int(weights * math.prod(node.inputs[0].shape) // node.inputs[0].shape[1])
    return int(weights // channels * math.prod(node.outputs[0].shape))


def _loss(reference: tuple[float, float], found: tuple[float, float]) -> float:
    return max(r - f for r, f in zip(reference, found, strict=True))


def _ap(variants: Variants, quantized: Sequence[str], truth: evaluation.Truth) -> tuple[float, float]:
    detect = variants.detector(quantized)
    pictures = ((i, truth.load(i)) for i in truth.ids)
    report = coco.evaluate(truth.annotations, {i: variants.in_picture(detect(p), p) for i, p in pictures})
    box = report["box"]["AP"]
    if box is None:
        raise InputError("the annotations hold no objects: AP cannot be measured")
    return float(box), float(report.get("mask", {}).get("AP") or box)


def report_on(
    run: str,
    images: Path | None = None,
    annotations: Path | None = None,
    limit: int = RANKING,
    budget: float | None = None,
    budget_images: int = JUDGING,
    calibration: Path | None = None,
    output: Path | None = None,
    progress: Progress = lambda done, total, name: None,
) -> dict[str, Any]:
    """Rank a model's layers; with a budget, also choose which to keep in fp16.

    Args:
        run: an int8 build folder, an .onnx file, or the name of a golden graph.
        images: folder of pictures; a trained golden graph draws scenes that no calibration or evaluation uses.
        annotations: COCO instances of these pictures, needed with a budget.
        limit: how many pictures rank the layers.
        budget: by how much box and mask AP may fall; budget_images pictures judge it.
        calibration: see provider.Provider.
        output: gets the result as JSON.
        progress: called with (steps done, steps in all, what runs).

    Raises:
        InputError: there is nothing to measure on.
    """
    model, size = run, (1344, 1344)
    if Path(run).is_dir():
        manifest = read_manifest(Path(run))
        model, size = str(manifest["source"]["model"]), canvas_size(manifest["io"])
        held = Path(run) / "calibration.json"
        calibration = calibration or (held if held.is_file() else None)
    pictures, truth = _material(model, images, annotations, limit, budget_images if budget is not None else None)
    prepared = prepare(model, size)
    provider = Provider(model, CACHE, calibration, rule=prepared.rule)
    provider.ranges(prepared.graph, prepared.ctx, prepared.groups)
    with tempfile.TemporaryDirectory(prefix="onnxgraft-") as folder:
        variants = Variants(prepared, provider, Path(folder))
        ranking = rank(variants, pictures, progress)
        choice = choose(variants, ranking, budget, truth, progress) if budget is not None and truth else None
    report = {
        "model": model,
        "images": len(pictures),
        "layers": [asdict(row) for row in ranking],
        "choice": asdict(choice) | {"met": choice.met} if choice else None,
    }
    if output is not None:
        write_atomically(output, (json.dumps(report, indent=1) + "\n").encode())
    return report


def _material(
    model: str, images: Path | None, annotations: Path | None, limit: int, judged: int | None
) -> tuple[list[NDArray[np.uint8]], evaluation.Truth | None]:
    """Pictures that rank the layers, and annotated ones that judge a budget."""
    if images is not None:
        if judged is not None and annotations is None:
            raise InputError("an accuracy budget needs annotated pictures: give --annotations FILE too")
        truth = evaluation.from_files(images, annotations, judged) if judged is not None and annotations else None
        return [p.load() for p in picture_sets.folder(images, limit)], truth
    if golden.evaluation(model) is None:
        raise InputError("give --images DIR: only trained golden graphs draw their own pictures")
    module = shapes()
    base = module.CALIBRATION + _UNSEEN
    truth = evaluation.from_scenes(judged, base) if judged is not None else None
    return [np.asarray(module.scene(i, base)) for i in range(limit)], truth
