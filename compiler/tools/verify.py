"""Is a build still the detector that was exported? Compares its detections with the reference.

The reference of a golden graph is detectron2 in PyTorch, whose answers are stored. For a user's own export it is the
exported graph in ONNX Runtime, with the alignment of RoiAlign repaired as the build repaired it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxgraft.driver.plan import noise
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog, scenes
from onnxgraft.golden import references as golden_references
from onnxgraft.instruments.stage import feeder, stage_detections
from onnxgraft.ir.graph import Graph
from onnxgraft.passes import FixInput
from onnxgraft.passes.default import parse_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.comparison import MatchReport, match
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.images import place, read_image
from onnxgraft.runtime.proposals import grid
from onnxgraft.runtime.session import Session
from onnxgraft.targets import OrtRunner


@dataclass(frozen=True)
class Tolerance:
    """When two detections are the same, and how many must be (fidelity.md of the design: strict, and for fp16)."""

    iou: float
    score: float
    mask: float
    share: float
    logits: float  # of heatmaps and semantic maps, as a share of their largest magnitude


TOLERANCES = {
    "fp32": Tolerance(0.99, 1e-3, 0.01, 1.0, 1e-3),
    "fp16": Tolerance(0.95, 5e-3, 0.02, 0.9, 0.03),
    "bf16": Tolerance(0.9, 0.03, 0.05, 0.8, 0.1),
    "int8": Tolerance(0.75, 0.15, 0.1, 0.7, 0.5),  # a guard against broken engines only: int8 is judged by its AP
}


@dataclass(frozen=True)
class Verification:
    """The comparison of one image."""

    name: str
    report: MatchReport
    passed: bool


def verify(
    run: str | Path,
    images: Sequence[str | Path] = (),
    engine: str = "auto",
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[list[Verification], str]:
    """Compare a build with its reference, image by image.

    Args:
        run: a build folder.
        images: pictures to compare on; a golden graph has its own, another export gets drawn noise without them.
        engine: see runtime.session.Session.
        progress: called with a word on what runs.

    Returns:
        One Verification per image, and a sentence on what the reference was and what ran.
    """
    session = Session(run, engine=engine)
    if session.manifest.io.proposals is not None:
        session.proposals = partial(grid, rows=session.manifest.io.proposals.shape[-2])
    tolerance = TOLERANCES[session.manifest.precision]
    references, what = _references(session, images)
    results = []
    for name, image, expected in references:
        progress(name)
        (found,) = session.run([image])
        report = match(expected, found.raw, tolerance.iou, tolerance.score, tolerance.mask, tolerance.logits)
        passed = report.exact if tolerance.share == 1.0 else report.share >= tolerance.share and report.same_map
        results.append(Verification(name, report, passed))
    return results, f"{what}; {session.notice or 'the engine itself ran'}"


Reference = tuple[str, NDArray[np.uint8], Detections]


def _references(session: Session, images: Sequence[str | Path]) -> tuple[Iterator[Reference], str]:
    source = session.manifest.source.model
    canvas = session.canvas
    if not images and _has_answers(source, canvas):
        stored = golden_references.references(source)
        return ((f"scene {i}", image, d) for i, image, d in stored), "reference: stored answers"
    pictures = [(str(p), _on_canvas(session, read_image(p))) for p in images] or [("noise", noise(canvas))]
    return _run_export(session, pictures), "reference: the exported graph in ONNX Runtime"


def _has_answers(source: str, canvas: tuple[int, int]) -> bool:
    """Whether `source` is a golden graph with stored answers for pictures of the canvas size."""
    if source not in catalog.names() or not golden_references.scene_numbers(source):
        return False
    return bool(canvas == scenes.scene(0).shape[:2])


def _on_canvas(session: Session, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture, uint8 [H, W, 3] BGR, as it lies on the canvas, alike, so that build and export see the same pixels."""
    mean = session.manifest.preprocess.mean_in("BGR")
    tensor, _ = place(image, session.canvas, session.feeder.rule, mean=mean, layout="NHWC", dtype="uint8")
    return np.asarray(tensor, np.uint8)


def _run_export(session: Session, pictures: Sequence[tuple[str, NDArray[np.uint8]]]) -> Iterator[Reference]:
    manifest = session.manifest
    graph, ctx = Graph.load(catalog.resolve(manifest.source.model, CACHE)), Context(channel_order=manifest.preprocess.order)
    steps = parse_pipeline(manifest.pipeline).stop_after(FixInput.name()).passes  # as exported, on the build's canvas
    PassManager(steps, fingerprints=False).run(graph, ctx)
    feeds = feeder(graph, ctx)
    with tempfile.TemporaryDirectory(prefix="onnxgraft-") as folder:
        graph.save(Path(folder) / "reference.onnx")
        runner = OrtRunner(Path(folder) / "reference.onnx")
        for name, image in pictures:
            yield name, image, stage_detections(runner(feeds([image])), ctx, feeds.io)
