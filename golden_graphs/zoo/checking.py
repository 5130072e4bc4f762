"""Compile a model and hold its answers against PyTorch's stored ones: what the tests and the zoo's sweep share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxgraft.golden import sidecars
from onnxgraft.golden.references import detections_of
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import Preprocess
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.comparison import MatchReport, match
from onnxgraft.runtime.feeds import Feeder
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.targets import OrtRunner

FORMS = {"plugin": "onnxruntime", "native": "tensorrt-rtx"}  # form: the target whose pipeline makes it
ALIGNED = "ROIAlignV2"  # what an export below opset 16 meant, unless the user says otherwise
HEATMAP = 0.01  # mean absolute error of a heatmap's or a semantic map's logits that is still the same

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Check:
    """One form of a model against PyTorch: the strict match of its detections, and the error of its maps."""

    report: MatchReport | None
    heatmaps: float | None
    semantic: float | None
    surgery: float  # seconds from the file to the compiled graph

    @property
    def exact(self) -> bool:
        """Everything that the family has is the same."""
        detections = self.report is None or self.report.exact
        maps = [error for error in (self.heatmaps, self.semantic) if error is not None]
        return detections and all(error < HEATMAP for error in maps)

    @property
    def share(self) -> float:
        """Strict match: of the detections, or of the maps where nothing is detected."""
        return self.report.share if self.report is not None else float(self.exact)

    def __str__(self) -> str:
        parts = [str(self.report)] if self.report is not None else []
        parts += [f"{name} {error:.2g}" for name, error in (("heatmaps", self.heatmaps), ("semantic", self.semantic))
                  if error is not None]  # fmt: skip
        return ", ".join(parts)


def compile_form(
    model: Path, form: str, size: tuple[int, int], folder: Path, numbers: Path | None = None, pooler_type: str = ALIGNED,
    batch: int = 1,
) -> tuple[Path, Context, float]:
    """The file of one form of `model`, which must agree with its sidecar `numbers`; and the surgery's seconds."""
    started = time.perf_counter()
    beside = sidecars.find(str(model), model, numbers)
    graph, ctx = Graph.load(model), Context(channel_order=beside.channel_order)
    options = CompileOptions(size=size, boxes="pixels", pooler_type=pooler_type, batch=batch)
    pipeline = default_pipeline(options, FORMS[form])
    PassManager(pipeline.passes, fingerprints=False).run(graph, ctx)
    if ctx.detector is not None:
        beside.check(ctx.detector)
    path = folder / f"{model.stem}-{form}.onnx"
    graph.save(path)
    return path, ctx, time.perf_counter() - started


def check(
    model: Path,
    form: str,
    image: np.ndarray,
    answers: Arrays,
    folder: Path,
    numbers: Path | None = None,
    threads: int | None = None,
    pooler_type: str = ALIGNED,
) -> Check:
    """Compile `model` in one form at the size of `image` (uint8 BGR [H,W,3]), run it and compare with `answers`."""
    path, ctx, surgery = compile_form(model, form, image.shape[:2], folder, numbers, pooler_type)
    outputs = run(path, ctx, image, answers.get("proposals"), threads)
    report = None
    if "boxes" in answers:
        found = replace(from_outputs(outputs, ctx.io), heatmaps=None, semantic=None)  # these are compared below
        report = match(detections_of(answers), found)
    heatmaps = None
    if "keypoint_heatmaps" in answers and report is not None:
        stored = answers["keypoint_heatmaps"].astype(np.float32)
        given = outputs["detection_keypoint_heatmaps"][0]
        pairs = [(a, b) for a, b in report.pairs[: report.matched] if a < len(stored)]
        heatmaps = max((float(np.abs(stored[a] - given[b]).mean()) for a, b in pairs), default=np.inf)
    semantic = None
    if "semantic_logits" in answers:
        semantic = float(np.abs(answers["semantic_logits"].astype(np.float32) - outputs["semantic_logits"]).mean())
    return Check(report, heatmaps, semantic, surgery)


def check_batch(
    model: Path, form: str, images: Sequence[np.ndarray], answers: Sequence[Arrays], folder: Path, numbers: Path | None = None,
    threads: int | None = None,
) -> list[MatchReport]:  # fmt: skip
    """Compile `model` for a batch of so many pictures (uint8 BGR [H,W,3], of one size); each one's strict match with its own
    answers (of what is detected; maps are compared by `check`)."""
    path, ctx, _ = compile_form(model, form, images[0].shape[:2], folder, numbers, batch=len(images))
    feeds = Feeder.of(ctx.io, Preprocess.of(ctx.spec().image))
    outputs = OrtRunner(path, threads)(feeds(list(images), None))
    found = [replace(from_outputs(outputs, ctx.io, row), heatmaps=None, semantic=None) for row in range(len(images))]
    return [match(detections_of(own), row) for own, row in zip(answers, found, strict=True)]


def run(
    path: Path, ctx: Context, image: np.ndarray, proposals: np.ndarray | None = None, threads: int | None = None
) -> dict[str, np.ndarray]:
    """The outputs of a compiled file for one image.

    Args:
        path, ctx: as `compile_form` gives them.
        image: uint8 [H, W, 3] BGR of the canvas size.
        proposals: float32 [R, 4], pixels, for a graph that takes them.
        threads: of ONNX Runtime; None for all cores.
    """
    feeds = Feeder.of(ctx.io, Preprocess.of(ctx.spec().image))
    return OrtRunner(path, threads)(feeds([image], None if proposals is None else [proposals]))


def detections_match(answers: Arrays, others: Arrays) -> MatchReport:
    """The strict match of two sets of PyTorch's detections."""
    return match(detections_of(answers), detections_of(others))
