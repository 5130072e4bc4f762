"""Average precision (COCO, LVIS, Cityscapes), panoptic quality and mean IoU of a build, an export, or stored detections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.evaluation import coco
from onnxgraft.evaluation.answers import Answer
from onnxgraft.evaluation.miou import MeanIoU, read_labels
from onnxgraft.evaluation.panoptic_quality import PanopticQuality, PanopticTruth, read_truth
from onnxgraft.evaluation.truth import Truth
from onnxgraft.files import write_json
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.postprocess import ImageDetections
from onnxgraft.tools.answering import Material, answers_of, subject_of

Progress = Callable[[int, int, str], None]


def evaluate(
    run: str,
    images: Path | None = None,
    annotations: Path | None = None,
    limit: int | None = None,
    stored: Path | None = None,
    engine: str = "auto",
    output: Path | None = None,
    semantic: Path | None = None,
    progress: Progress = lambda done, total, name: None,
    *,
    panoptic: Path | None = None,
    panoptic_pictures: Path | None = None,
    shards: int | None = None,
) -> dict[str, Any]:
    """Average precision of `run`, beside that of stored detections where there are any.

    Interrupted, it goes on where it was when it is asked for the same again. Long because each input is told.

    Args:
        run: a build folder, an exported .onnx, or the name of a golden graph (then the export itself answers).
        images, annotations: pictures and a COCO or LVIS instances file, or a folder of Cityscapes' annotations; without them
            a golden graph is judged on drawn scenes.
        limit: at most so many images (for drawn scenes: how many).
        stored: folder of `<image name>.npz` detections of another runtime, in the pictures' pixels.
        engine: see runtime.session.Session.
        output: gets the result as JSON.
        semantic: folder of `<image name>.png` with the semantic class of each pixel (255: ignored), for mIoU; without
            annotations it says which images count.
        progress: called with (images done, images in all, name of the next).
        panoptic, panoptic_pictures: COCO's panoptic annotations and the folder of their pictures, for panoptic quality; see
            evaluation.panoptic_quality.read_truth. Without annotations they say which images count.
        shards: spread the pictures over so many tasks of a Ray cluster; all files must be there under the same paths.

    Returns:
        {"images", "what", "rows": {subject: report of evaluation.coco.evaluate, "semantic": of evaluation.miou, "panoptic":
        of evaluation.panoptic_quality}}.

    Raises:
        InputError: what was given does not fit together, in one line.
    """
    subject = subject_of(run, engine, answers=shards is None)
    what = subject.what
    material = Material(subject.source, images, annotations, limit, semantic, panoptic, panoptic_pictures)
    truth, answers = material.truth(), stored or material.stored()
    categories = subject.categories(truth, annotations)
    judges = Judges(truth, semantic, read_truth(panoptic, panoptic_pictures) if panoptic else None, categories)
    for image_id, answer in answers_of(run, engine, material, truth, progress, shards, subject.opened):
        judges.add(image_id, answer)
    rows = {Path(run).name: judges.report()}
    if judges.unjudged and panoptic is None:
        what = f"{what}; panoptic quality needs --panoptic FILE"
    reference = dict(_stored(answers, truth)) if answers is not None else {}
    if reference:
        rows["stored detections"] = coco.evaluate(truth.annotations, reference)
    report = {"images": len(truth.ids), "what": what, "rows": rows}
    if output is not None:
        write_json(output, report, indent=1)
    return report


class Judges:
    """Everything that is measured, fed an answer after the other."""

    def __init__(
        self, truth: Truth, semantic: Path | None, panoptic: PanopticTruth | None, categories: list[int] | None = None
    ) -> None:
        self.truth, self.semantic, self.categories = truth, semantic, categories
        self.found: dict[int, ImageDetections | Detections] = {}
        self.regions: MeanIoU | None = None
        self.segments = PanopticQuality(panoptic) if panoptic is not None else None
        self.unjudged = False

    def add(self, image_id: int, answer: Answer) -> None:
        """Count the answer for an image. Raises InputError where the network lacks what is to be judged."""
        self.found[image_id] = answer.found
        self.unjudged |= bool(answer.classes) and answer.found.detections.masks is not None
        if self.semantic is not None:
            if answer.semantic is None:
                raise InputError("--semantic: this network has no semantic head")
            self.regions = self.regions or MeanIoU(answer.classes)
            place = self.semantic / f"{Path(self.truth.name(image_id)).stem}.png"
            self.regions.add(answer.semantic, read_labels(place))
        elif answer.only_segments:
            raise InputError("this network only segments: give --semantic DIR with a picture of classes for every image")
        if self.segments is not None:
            if answer.segments is None:
                raise InputError("--panoptic: this network makes no panoptic segments: it needs masks and a semantic head")
            self.segments.add(image_id, answer.segments.ids, answer.segments.info)

    def report(self) -> dict[str, Any]:
        """The figures of all images."""
        figures: dict[str, Any] = {}
        if self.truth.annotations["categories"]:
            figures |= coco.evaluate(self.truth.annotations, self.found, self.categories)
        figures |= {"semantic": self.regions.report()} if self.regions else {}
        return figures | ({"panoptic": self.segments.report()} if self.segments else {})


def _stored(folder: Path, truth: Truth) -> Iterator[tuple[int, Detections]]:
    for image_id in truth.ids:
        file = folder / f"{Path(truth.name(image_id)).stem}.npz"
        if not file.is_file():
            raise InputError(f"{file}: not there; stored detections need a file for every image")
        yield image_id, Detections.load(file)
