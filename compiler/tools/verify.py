"""Is a build still the detector that was exported? Compares its detections with the reference.

The reference of a golden graph is detectron2 in PyTorch, whose answers are stored. For a user's own export it is the file as
it was given, in ONNX Runtime, with the alignment of RoiAlign repaired as the build repaired it: as the build's own proof has
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxgraft.atomic import scratch
from onnxgraft.driver.plan import noise
from onnxgraft.errors import InputError
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog, scenes
from onnxgraft.golden import references as golden_references
from onnxgraft.passes import FixInput
from onnxgraft.passes.default import parse_pipeline
from onnxgraft.passes.fix_input import SIZE_DIVISIBILITY
from onnxgraft.proof import witness
from onnxgraft.proof.image import first_read, white_level
from onnxgraft.proof.models import FileModel
from onnxgraft.runtime.comparison import MatchReport, match
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.images import place, read_image
from onnxgraft.runtime.proposals import grid
from onnxgraft.runtime.session import Session


@dataclass(frozen=True)
class Tolerance:
    """When two detections are the same, and how many must be (fidelity.md of the design: strict, and for fp16)."""

    iou: float
    score: float
    mask: float
    share: float
    logits: float  # of heatmaps and semantic maps, as a share of their largest magnitude

    def __str__(self) -> str:
        least = "all" if self.share == 1.0 else f"{self.share:.0%}"
        return (f"{least} of the detections with the same class, IoU > {self.iou:g}, scores within {self.score:g}, "
                f"masks within {self.mask:g}, logits within {self.logits:g} of their largest")  # fmt: skip


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

    @property
    def compared(self) -> bool:
        """Whether there was anything to compare: two networks that find nothing may be any two."""
        return bool(self.report.reference or self.report.found or self.report.semantic is not None)

    @property
    def verdict(self) -> str:
        """One word."""
        return ("same" if self.passed else "DIFFERS") if self.compared else "NOTHING"


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
        One Verification per image, and a sentence on the reference, what ran, and the tolerance.
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
    return results, f"{what}; {_what_ran(session, engine)}; tolerance of {session.manifest.precision}: {tolerance}"


def _what_ran(session: Session, engine: str) -> str:
    if session.notice:
        return session.notice
    manifest = session.manifest
    if manifest.engine is None:
        return f"ONNX Runtime ran {manifest.runnable}: the build has no engine"
    return f"ONNX Runtime ran {manifest.runnable}" if engine == "onnxruntime" else "the engine itself ran"


Reference = tuple[str, NDArray[np.uint8], Detections]


def _references(session: Session, images: Sequence[str | Path]) -> tuple[Iterator[Reference], str]:
    source = session.manifest.source.model
    canvas = _size(session)
    if not images and _has_answers(source, canvas):
        stored = golden_references.references(source)
        return ((f"scene {i}", image, d) for i, image, d in stored), "reference: stored answers"
    pictures = [(str(p), _on_canvas(session, read_image(p))) for p in images] or [("noise", noise(canvas))]
    return _run_export(session, pictures), "reference: the exported graph in ONNX Runtime"


def _size(session: Session) -> tuple[int, int]:
    """Height and width of what both sides see. Raises InputError where the exported file has no such size."""
    height, width = session.manifest.io.area
    if height % SIZE_DIVISIBILITY or width % SIZE_DIVISIBILITY:
        raise InputError(f"the build is for pictures of {height}x{width}, which detectron2 pads, so that its exported file has "
                         "no such size: what the build's proof says of it stands in its manifest.json")  # fmt: skip
    return height, width


def _has_answers(source: str, canvas: tuple[int, int]) -> bool:
    """Whether `source` is a golden graph with stored answers for pictures of the canvas size."""
    if source not in catalog.names() or not golden_references.scene_numbers(source):
        return False
    return bool(canvas == scenes.scene(0).shape[:2])


def _on_canvas(session: Session, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture, uint8 [H, W, 3] BGR, as it lies on the canvas, alike, so that build and export see the same pixels."""
    mean, area = session.manifest.preprocess.mean_in("BGR"), session.manifest.io.area
    tensor, _ = place(image, area, session.feeder.rule, mean=mean, layout="NHWC", dtype="uint8")
    return np.asarray(tensor, np.uint8)


def _run_export(session: Session, pictures: Sequence[tuple[str, NDArray[np.uint8]]]) -> Iterator[Reference]:
    manifest, canvas = session.manifest, session.manifest.io.area
    source = catalog.resolve(manifest.source.model, CACHE)
    steps = parse_pipeline(manifest.pipeline).stop_after(FixInput.name()).passes
    seen = witness.run(source, steps, manifest.preprocess.order)
    if seen.recognised is None:
        raise InputError("the build's pipeline recognises no detector, so that its file cannot be run beside it")
    rows = manifest.io.proposals.shape[-2] if manifest.io.proposals is not None else 1
    with scratch() as folder:
        file = FileModel(seen.file(canvas), seen.recognised.ctx.spec(), canvas, folder, rows)
        recognised = seen.recognised.graph()
        start = first_read(file.graph, recognised, seen.recognised.ctx.values.normalized)
        file.white = white_level(file.graph, file.spec.image, start)
        for name, image in pictures:
            yield name, image, file(image)
