"""Runs the graph after each pass and compares its detections with those of the stage before."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import PassError
from onnxgraft.graph import PLUGIN_DOMAIN, Graph
from onnxgraft.manager import Context, Instrument, Pass, PassRecord
from onnxgraft.plugins import REGISTRY
from onnxgraft.runtime.detections import Detections, from_raw_export
from onnxgraft.runtime.match import MatchReport, match
from onnxgraft.runtime.proposals import grid
from onnxgraft.targets import OrtRunner

CHANGES_ANSWERS = {
    "repair-roi-align": "restores what the export lost, so its answers are new",
    "quantize": "rounds to int8; `onnxgraft eval` measures what that costs",
    "bf16": "rounds to bf16; `onnxgraft eval` measures what that costs",
    "fp16": "rounds to fp16; `onnxgraft eval` measures what that costs",
}


class NumericCheck(Instrument):
    """Detections against the previous stage, in ONNX Runtime, on images of the canvas size.

    Args:
        images: uint8 [H, W, 3], BGR, of the size that the input is fixed to.
        required: raise PassError when a pass changes a detection beyond the strict match.
        progress: called with a word on what runs.
    """

    def __init__(
        self, images: Sequence[NDArray[np.uint8]], required: bool = True, progress: Callable[[str], None] | None = None
    ) -> None:
        self.images = list(images)
        self.required = required
        self.progress = progress or (lambda _: None)
        self._last: list[Detections] | None = None

    @property
    def found(self) -> list[Detections]:
        """The detections of the last stage that ran, one entry an image."""
        return self._last or []

    def start(self, graph: Graph, ctx: Context) -> None:
        self._last = self._run(graph, ctx) if fits(graph, self.images[0]) else None

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        if not record.changed:
            return dataclasses.replace(record, check={"state": "unchanged"})
        reason = not_runnable(graph) if fits(graph, self.images[0]) else "the input has another size than the images"
        if reason is not None:
            return dataclasses.replace(record, check={"state": "not checked", "reason": reason})
        self.progress(f"checking {record.name}")
        before, found = self._last, self._run(graph, ctx)
        self._last = found
        if before is None:
            return dataclasses.replace(record, check={"state": "first", "detections": sum(map(len, found))})
        pairs = [match(a, b) for a, b in zip(before, found, strict=True)]
        check = {"state": "compared", **summary(pairs)}
        if step.name() in CHANGES_ANSWERS and not check["exact"]:
            check["state"] = "intended change"
            check["reason"] = CHANGES_ANSWERS[step.name()]
        elif self.required and not check["exact"]:
            raise PassError(record.name, f"changes the detections: {'; '.join(map(str, pairs))}")
        return dataclasses.replace(record, check=check)

    def _run(self, graph: Graph, ctx: Context) -> list[Detections]:
        with tempfile.TemporaryDirectory(prefix="onnxgraft-") as folder:
            path = Path(folder) / "stage.onnx"
            graph.save(path)
            runner = OrtRunner(path)
            return [stage_detections(runner(stage_feeds(graph, ctx, image)), ctx) for image in self.images]


def fits(graph: Graph, image: NDArray[np.uint8]) -> bool:
    """Whether the graph's input has the image's size."""
    shape = list(graph.gs.inputs[0].shape or []) if graph.gs.inputs else []
    return image.shape[0] in shape and image.shape[1] in shape


def not_runnable(graph: Graph) -> str | None:
    """Why ONNX Runtime cannot run a stage, or None when it can."""
    if any(node.op in REGISTRY and node.domain != PLUGIN_DOMAIN for node in graph.nodes):
        return "the graph holds plugins that only TensorRT runs"
    return None


def stage_feeds(graph: Graph, ctx: Context, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """The inputs of a graph at any stage, for one canvas-sized BGR image (repeated over the batch)."""
    tensor = graph.gs.inputs[0]
    shape = list(tensor.shape)
    described = ctx.io.get("input", {})
    order = described.get("order") or (ctx.detector.image.order if ctx.detector else "BGR")
    picture = image[..., ::-1] if order == "RGB" else image
    if described.get("layout", "NCHW") == "NCHW":
        picture = picture.transpose(2, 0, 1)
    picture = np.ascontiguousarray(picture, dtype=described.get("dtype", "float32"))
    feeds = {tensor.name: picture if len(shape) == 3 else np.stack([picture] * shape[0])}
    if ctx.io.get("image_sizes"):
        feeds["image_sizes"] = np.array([image.shape[:2]] * shape[0], np.float32)
    for other in graph.gs.inputs[1:]:
        if other.name not in feeds and other.shape and other.shape[-1] == 4:
            boxes = grid(None, (image.shape[0], image.shape[1]), other.shape[-2])
            feeds[other.name] = np.broadcast_to(boxes, other.shape)
    return feeds


def stage_detections(outputs: dict[str, NDArray[Any]], ctx: Context) -> Detections:
    """The first image's detections of a graph at any stage, in pixels of the canvas."""
    sites = ctx.sites
    if "num_detections" not in sites:
        return from_raw_export(outputs, ctx.detector.outputs if ctx.detector is not None else None)
    count = int(outputs[sites["num_detections"]][0, 0])
    boxes = outputs[sites["boxes"]][0, :count]
    if ctx.io.get("boxes") == "normalized":
        image = ctx.spec().image
        boxes = boxes * np.array([image.width, image.height] * 2, np.float32)
    masks, heatmaps = (
        None if found is None else found.reshape(ctx.batch, -1, *found.shape[-rank:])[0, :count]
        for found, rank in ((outputs.get(sites.get("masks", "")), 2), (outputs.get(sites.get("heatmaps", "")), 3))
    )
    semantic = outputs.get(sites.get("semantic", ""))
    scores = outputs[sites["scores"]][0, :count]
    classes = outputs[sites["classes"]][0, :count] if "classes" in sites else np.zeros(count)
    logits = None if semantic is None else semantic[0]
    return Detections.of(boxes, scores, classes.astype(np.int64), masks, heatmaps, logits)


def summary(pairs: Sequence[MatchReport]) -> dict[str, Any]:
    """Figures over all images: matched, the worst differences, and whether all of it is exact."""
    maps = {kind: [w for p in pairs if (w := getattr(p, kind)) is not None] for kind in ("mask", "heatmap", "semantic")}
    return {
        "images": len(pairs),
        "reference": sum(p.reference for p in pairs),
        "matched": sum(p.matched for p in pairs),
        "found": sum(p.found for p in pairs),
        "box_px": max((p.box_px for p in pairs), default=0.0),
        "score": max((p.score for p in pairs), default=0.0),
        **{kind: max(worst) if worst else None for kind, worst in maps.items()},
        "exact": all(p.exact for p in pairs),
    }
