"""Runs the graph after each pass and compares its detections with those of the stage before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError, PassError
from onnxgraft.instruments.stage import detect, fits
from onnxgraft.ir.graph import PLUGIN_DOMAIN, Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DETECTOR
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.record import Compared, Figures, First, Intended, NotChecked, PassRecord, Unchanged
from onnxgraft.plugins import REGISTRY
from onnxgraft.runtime.comparison import MatchReport, match
from onnxgraft.runtime.detections import Detections


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
        self._content: tuple[int, int] | None = None

    @property
    def found(self) -> list[Detections]:
        """The detections of the last stage that ran, one entry an image."""
        return self._last or []

    def start(self, graph: Graph, ctx: Context) -> None:
        self._content = ctx.io.content
        self._last = self._of_file(graph, ctx) if fits(graph, self.images[0]) else None

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        if not record.changed:
            return dataclasses.replace(record, check=Unchanged() if record.skipped is None else None)
        reason = not_runnable(graph) if fits(graph, self.images[0]) else "the input has another size than the images"
        if reason is not None:
            return dataclasses.replace(record, check=NotChecked(reason))
        self.progress(f"checking {record.name}")
        before, found = self._last, self._of_file(graph, ctx)
        self._last = found
        if found is None:
            return dataclasses.replace(record, check=NotChecked("what the outputs are is not known yet"))
        if DETECTOR in step.provided() and _another_form(ctx):
            before = None  # until here pictures and answers were read in detectron2's form
        if ctx.io.content != self._content:
            self._content = ctx.io.content
            return dataclasses.replace(record, check=NotChecked("from here on pictures lie on a part of the canvas"))
        if before is None:
            return dataclasses.replace(record, check=First(sum(map(len, found))))
        pairs = [match(a, b) for a, b in zip(before, found, strict=True)]
        figures = summary(pairs)
        if figures.exact:
            return dataclasses.replace(record, check=Compared(figures))
        if step.changes_answers:
            return dataclasses.replace(record, check=Intended(figures, step.changes_answers))
        if self.required:
            raise PassError(record.name, f"changes the detections: {'; '.join(map(str, pairs))}")
        return dataclasses.replace(record, check=Compared(figures))

    def _of_file(self, graph: Graph, ctx: Context) -> list[Detections] | None:
        """As `_run`; None where the outputs are not detectron2's, and no analysis has said yet what they are."""
        try:
            return self._run(graph, ctx)
        except InputError:
            if ctx.detector is not None:
                raise
            return None

    def _run(self, graph: Graph, ctx: Context) -> list[Detections]:
        return detect(graph, ctx, self.images)


def _another_form(ctx: Context) -> bool:
    """Whether the file takes pictures or gives answers in another form than detectron2's exports."""
    return bool(ctx.spec().output_forms) or not ctx.spec().image.usual


def not_runnable(graph: Graph) -> str | None:
    """Why ONNX Runtime cannot run a stage, or None when it can."""
    if any(node.op in REGISTRY and node.domain != PLUGIN_DOMAIN for node in graph.nodes):
        return "the graph holds plugins that only TensorRT runs"
    return None


def summary(pairs: Sequence[MatchReport]) -> Figures:
    """Figures over all images: matched, the worst differences, and whether all of it is exact."""
    worst = {kind: [w for p in pairs if (w := getattr(p, kind)) is not None] for kind in ("mask", "heatmap", "semantic")}
    return Figures(
        images=len(pairs),
        reference=sum(p.reference for p in pairs),
        matched=sum(p.matched for p in pairs),
        found=sum(p.found for p in pairs),
        box_px=max((p.box_px for p in pairs), default=0.0),
        score=max((p.score for p in pairs), default=0.0),
        mask=max(worst["mask"], default=None),
        heatmap=max(worst["heatmap"], default=None),
        semantic=max(worst["semantic"], default=None),
        exact=all(p.exact for p in pairs),
    )
