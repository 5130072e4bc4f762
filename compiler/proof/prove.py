"""Proves that a compiled graph gives the file's answers, or says what was not proved."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from onnxgraft.atomic import scratch
from onnxgraft.detector.chosen import Chosen
from onnxgraft.detector.spec import WHITE, DetectorSpec
from onnxgraft.errors import OnnxgraftError, ProofError
from onnxgraft.ir.bounds import Bounds
from onnxgraft.pipeline.base import Pass
from onnxgraft.proof import witness as witnesses
from onnxgraft.proof.cut import CutError
from onnxgraft.proof.feeds import Picture
from onnxgraft.proof.image import compare_image, first_read, white_level
from onnxgraft.proof.models import BuildModel, Delivered, FileModel, forms_at
from onnxgraft.proof.network import compare_network
from onnxgraft.proof.parts import Part
from onnxgraft.proof.pictures import Compared, compare_pictures, in_batches, pictures_of
from onnxgraft.proof.plan import parts_of
from onnxgraft.proof.probes import Probe
from onnxgraft.proof.proof import Proof
from onnxgraft.proof.sides import Sides
from onnxgraft.proof.witness import Kept, Witness
from onnxgraft.runtime.comparison import MatchReport, match
from onnxgraft.runtime.detections import Detections

Show = Callable[[Sequence[Picture], Sequence[Detections]], None]
_PADDED = 32  # pixels of which detectron2 makes each side a multiple
_SMALLER = 64  # pixels by which a picture is smaller than the canvas, where that must not matter


def prove(
    source: Path,
    steps: Sequence[Pass],
    seen: Witness | None = None,
    pictures: Sequence[Picture] = (),
    number: int = 1,
    order: str | None = None,
    exact_padding: bool = False,
    bounds: Bounds | None = None,
    progress: Callable[[str], None] = lambda _: None,
    delivered: Delivered | None = None,
    show: Show = lambda *_: None,
) -> Proof:
    """Compare the file with what passes make of it, part by part on probes and as a whole on pictures.

    Args:
        source: the file as it was given.
        steps: the passes of the build.
        seen: what was kept while they ran; they run again when None.
        pictures: uint8 BGR of the canvas size; others are made where these are too few.
        number: how many pictures; a batch takes at least as many as it has rows.
        order: the channel order that a sidecar names.
        exact_padding: answers must not depend on the canvas around a picture.
        bounds: what the model may ask for.
        progress: called with a word on what runs.
        delivered: what the build leaves: with the file's numbers, it must give its answers; typed, its distance is measured.
        show: called with those of `pictures` that were run, and what the build found on each of them.

    Raises:
        ProofError: the answers differ.
    """
    started = time.perf_counter()
    plain = [step.as_exported() for step in steps]
    missing = _nothing_to_prove(witnesses.rewrites(plain))
    if missing is not None:
        return Proof(cuts=seen.cuts if seen is not None else 0, missing=missing)
    same = plain == list(steps)
    kept = seen if same and seen is not None and seen.finished else witnesses.run(source, plain, order, bounds=bounds)
    several = kept.recognised is not None and kept.recognised.ctx.batch > 1
    alone = witnesses.run(source, witnesses.for_one_image(plain), order, bounds=bounds) if several else kept
    assert alone.recognised is not None
    with scratch() as folder:
        prover = _Prover(source, plain, order, bounds, alone.recognised, kept, progress, folder)
        proof = prover.parts()
        own = same or prover.choose(witnesses.chosen(steps, prover.spec), seen)
        compared = prover.pictures(pictures, number, exact_padding, delivered if own else None)
    show(given := pictures[:number], compared.answers[: len(given)])
    typed = delivered.kind if delivered is not None and delivered.typed else None
    seconds = round(time.perf_counter() - started, 2)
    return replace(proof.with_pictures(compared, typed), seconds=seconds, exported=not own)


def _nothing_to_prove(rewrites: Sequence[Pass]) -> str | None:
    """Why passes cannot be held to the file's answers, or None."""
    intended = next((step for step in rewrites if step.changes_answers), None)
    if intended is not None:
        return f"pass {intended.name()!r} changes answers by intent: {intended.changes_answers}"
    return None if rewrites else "the pipeline does not go from a recognised detector to named outputs"


class _Prover:
    def __init__(
        self, source: Path, steps: Sequence[Pass], order: str | None, bounds: Bounds | None, recognised: Kept, kept: Witness,
        progress: Callable[[str], None], folder: Path,
    ) -> None:  # fmt: skip
        self._source, self._steps, self._order, self._bounds = source, steps, order, bounds
        self._recognised, self._kept, self._progress = recognised, kept, progress
        self._sides, self._folder = kept.sides(recognised), folder
        self._white = WHITE
        self._models: dict[tuple[int, int], FileModel] = {}
        self._chosen = Chosen()

    @property
    def spec(self) -> DetectorSpec:
        return self._sides.spec

    def _model(self, size: tuple[int, int]) -> FileModel:
        """The file for pictures of a size."""
        if size not in self._models:
            own = self._folder / f"{size[0]}x{size[1]}"
            own.mkdir(exist_ok=True)
            proposals = self._sides.ctx.io.proposals
            rows = proposals.shape[-2] if proposals is not None else 1
            spec = self._recognised.ctx.spec()
            forms = forms_at(self._kept.file(size), spec, size)
            self._models[size] = FileModel(self._kept.file(size), spec, size, own, rows, forms)
            self._models[size].choose(self._chosen)
        self._models[size].white = self._white
        return self._models[size]

    def choose(self, chosen: Chosen | None, seen: Witness | None) -> bool:
        """Compare pictures with these numbers on both sides. False where they cannot be had there."""
        size = self._sides.spec.image.height, self._sides.spec.image.width
        if chosen is None or seen is None or seen.finished is None:
            return False
        if not self._model(size).choose(chosen):
            del self._models[size]  # it may have taken some of them
            return False
        self._chosen, self._sides = chosen, seen.sides(self._recognised)
        return True

    def parts(self) -> Proof:
        """All parts on their probes, and the network between them node by node. Raises ProofError."""
        parts = probes = 0
        missing = None
        normalized = self._recognised.ctx.values.normalized
        try:
            self._progress("proving the image")
            image = self._sides.spec.image
            given = self._model((image.height, image.width)).graph
            start = first_read(given, self._sides.file, normalized)
            self._white = white_level(given, image, start)
            difference = compare_image(given, self._sides, start, self._white)
            if difference is not None:
                raise ProofError(f"the image as the network reads it: {difference}")
            parts = probes = 1
            for part in parts_of(self._sides):
                self._progress(f"proving {part.name}")
                fed = list(part.probes())
                failure = first_failure(part, fed, self._sides.ctx.batch)
                if failure is not None:
                    probe, words = failure
                    raise ProofError(f"{part.name}, fed {probe.name!r}: {words}{self._blame(part.name, fed)}")
                parts, probes = parts + 1, probes + len(fed)
        except CutError as error:
            missing = f"a part cannot be cut out: {error}"
        network = compare_network(self._sides, normalized)
        return Proof(parts, probes, network.nodes, network.differs, self._kept.cuts, missing=missing)

    def _blame(self, name: str, probes: Sequence[Probe]) -> str:
        """The first pass after which a part differs, in words; "" where no stage shows it."""
        try:
            stages = witnesses.run(self._source, self._steps, self._order, every=True, bounds=self._bounds).stages
        except OnnxgraftError:
            return ""
        for stage in stages[1:]:
            try:
                sides = Sides(self._recognised.graph(), stage.graph(), stage.ctx)
                part = next((p for p in parts_of(sides, name)), None)
                if part is not None and first_failure(part, probes, stage.ctx.batch) is not None:
                    return f" [first after pass {stage.after!r}]"
            except (OnnxgraftError, LookupError, ValueError, StopIteration):  # a stage that has not made the part yet
                continue
        return ""

    def pictures(
        self, given: Sequence[Picture], number: int, exact_padding: bool, delivered: Delivered | None
    ) -> Compared:
        """The file against the compiled graph on whole pictures. Raises ProofError."""
        image, batch = self._sides.spec.image, self._sides.ctx.batch
        canvas = image.height, image.width
        shown = pictures_of(given, canvas, max(number, batch))
        content = delivered.io.content if delivered is not None else None
        if content is not None and not any(side % _PADDED for side in content):
            shown = [picture[: content[0], : content[1]] for picture in shown]
        elif exact_padding:
            small = canvas[0] - _SMALLER, canvas[1] - _SMALLER // 2
            shown += [picture[: small[0], : small[1]] for picture in shown[:1]]
        self._progress("proving on pictures")
        if delivered is not None and content is not None and any(side % _PADDED for side in content):
            return self._of_one_size(shown, delivered, content)
        typed = BuildModel(self._sides, self._folder, delivered) if delivered is not None and delivered.typed else None
        build = BuildModel(self._sides, self._folder, delivered.untyped if delivered is not None else None)
        return _equal(compare_pictures(self._model, build, shown, typed))

    def _of_one_size(self, shown: Sequence[Picture], delivered: Delivered, content: tuple[int, int]) -> Compared:
        """A part of the canvas that detectron2 pads before the file sees it, so that the file does not run at its size: the
        graph that takes sizes is held against the file, and the delivered one, with black around, against that graph."""
        build, held = BuildModel(self._sides, self._folder), delivered.untyped or delivered
        cut = [picture[: content[0], : content[1]] for picture in shown]
        pictures = [picture for picture in cut if picture.shape[:2] == content]  # the last one is smaller
        taken = in_batches(build, pictures)

        def against(other: Delivered) -> tuple[MatchReport, ...]:
            found = in_batches(BuildModel(self._sides, self._folder, other), pictures)
            return tuple(match(mine, theirs) for mine, theirs in zip(taken, found, strict=True))

        compared = _equal(compare_pictures(self._model, build, shown))
        if delivered.typed:
            compared = replace(compared, distance=against(delivered))
        if held.typed:
            return compared
        reports = against(held)
        for number, report in enumerate(reports, start=1):
            if not report.exact:
                raise ProofError(f"pictures of {content[0]}x{content[1]} with black around, picture {number}: {report}")
        return replace(
            compared, reports=(*compared.reports, *reports), undecided=(*compared.undecided, *[0] * len(reports)),
            ran=held.path.name,
        )  # fmt: skip


def _equal(compared: Compared) -> Compared:
    """Raises ProofError where pictures differ."""
    if compared.difference is not None and compared.missing is None:
        raise ProofError(compared.difference)
    return compared


def first_failure(part: Part, probes: Sequence[Probe], batch: int) -> tuple[Probe, str] | None:
    """The first probe on which both sides of a part differ, and how. Each row of a batch is held against the file's own run."""
    expected = [part.of_file(probe) for probe in probes]
    for start in range(0, len(probes), batch):
        rows = [(start + i) % len(probes) for i in range(batch)]
        found = part.of_build([probes[row] for row in rows])
        for image, row in enumerate(rows):
            outcome = part.compare(probes[row], expected[row], found, image, batch)
            if outcome.difference is not None:
                where = f"image {image} of the batch, " if batch > 1 else ""
                return probes[row], where + outcome.difference
    return None

