"""Average precision (COCO) and mean IoU of a build, of an exported graph, or of stored detections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.atomic import is_folder
from onnxgraft.errors import InputError
from onnxgraft.evaluation import coco
from onnxgraft.evaluation.miou import MeanIoU, read_labels
from onnxgraft.evaluation.truth import SCENES, Truth, from_files, from_scenes, from_semantic
from onnxgraft.files import CACHE, write_json
from onnxgraft.golden import catalog
from onnxgraft.manifest import GraphIO, ImageIO, Preprocess
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.feeds import Feeder
from onnxgraft.runtime.postprocess import ImageDetections, to_original
from onnxgraft.runtime.read_outputs import from_raw_export
from onnxgraft.runtime.session import ImageResult, Session
from onnxgraft.targets import OrtRunner
from onnxgraft.tools.inspect import inspect

Progress = Callable[[int, int, str], None]
Detector = Callable[[NDArray[np.uint8]], ImageResult]
NO_PANOPTIC_QUALITY = "eval knows boxes, masks, keypoints and mIoU: panoptic quality is not measured"


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
) -> dict[str, Any]:
    """Average precision of `run`, beside that of stored detections where there are any.

    Args:
        run: a build folder, an exported .onnx, or the name of a golden graph (then the export itself answers).
        images, annotations: pictures and a COCO instances file; without them a golden graph is judged on drawn scenes.
        limit: at most so many images (for drawn scenes: how many).
        stored: folder of `<image name>.npz` detections of another runtime, in the pictures' pixels.
        engine: see runtime.session.Session.
        output: gets the result as JSON.
        semantic: folder of `<image name>.png` with the semantic class of each pixel (255: ignored), for mIoU; without
            annotations it says which images count.
        progress: called with (images done, images in all, name of the next).

    Returns:
        {"images", "what", "rows": {subject: report of evaluation.coco.evaluate, "semantic": of evaluation.miou}}.

    Raises:
        InputError: what was given does not fit together, in one line.
    """
    detect, source, what = _detector(run, engine)
    truth, answers = _truth(source, images, annotations, limit, stored, semantic)
    own, panoptic = _judge(detect, truth, semantic, progress)
    rows = {Path(run).name: own}
    if panoptic:
        what = f"{what}; {NO_PANOPTIC_QUALITY}"
    reference = dict(_stored(answers, truth)) if answers is not None else {}
    if reference:
        rows["stored detections"] = coco.evaluate(truth.annotations, reference)
    report = {"images": len(truth.ids), "what": what, "rows": rows}
    if output is not None:
        write_json(output, report, indent=1)
    return report


def _judge(
    detect: Detector, truth: Truth, semantic: Path | None, progress: Progress
) -> tuple[dict[str, Any], bool]:
    """What the answers are worth, and whether they are a Panoptic FPN's."""
    found: dict[int, ImageDetections | Detections] = {}
    segments: MeanIoU | None = None
    panoptic = False
    for number, image_id in enumerate(truth.ids):
        progress(number, len(truth.ids), truth.name(image_id))
        result = detect(truth.load(image_id))
        found[image_id] = result.found
        logits = result.raw.semantic
        panoptic |= logits is not None and result.raw.masks is not None
        if semantic is not None:
            if logits is None or result.semantic is None:
                raise InputError("--semantic: this network has no semantic head")
            segments = segments or MeanIoU(len(logits))
            segments.add(result.semantic, read_labels(_picture_of(semantic, truth, image_id)))
        elif result.detects_nothing:
            raise InputError("this network only segments: give --semantic DIR with a picture of classes for every image")
    progress(len(truth.ids), len(truth.ids), "")
    report = coco.evaluate(truth.annotations, found) if truth.annotations["categories"] else {}
    return report | ({"semantic": segments.report()} if segments else {}), panoptic


def _picture_of(folder: Path, truth: Truth, image_id: int) -> Path:
    return folder / f"{Path(truth.name(image_id)).stem}.png"


def _truth(
    source: str,
    images: Path | None,
    annotations: Path | None,
    limit: int | None,
    stored: Path | None,
    semantic: Path | None,
) -> tuple[Truth, Path | None]:
    if images is not None and annotations is None and semantic is not None:
        return from_semantic(images, semantic, limit), stored
    if (images is None) != (annotations is None):
        raise InputError("give both --images and --annotations, or neither")
    if images is not None and annotations is not None:
        return from_files(images, annotations, limit), stored
    folder = catalog.evaluation(source)
    if folder is None:
        raise InputError("give --images DIR and --annotations FILE: only trained golden graphs bring annotated scenes along")
    count = SCENES if limit is None else limit
    return from_scenes(count), stored or (folder if count <= SCENES else None)


def _stored(folder: Path, truth: Truth) -> Iterator[tuple[int, Detections]]:
    for image_id in truth.ids:
        file = folder / f"{Path(truth.name(image_id)).stem}.npz"
        if not file.is_file():
            raise InputError(f"{file}: not there; stored detections need a file for every image")
        yield image_id, Detections.load(file)


def _detector(run: str, engine: str) -> tuple[Detector, str, str]:
    """What answers, the model that it came from, and a sentence on what runs."""
    if is_folder(Path(run)):
        session = Session(run, engine=engine)

        def build(image: NDArray[np.uint8]) -> ImageResult:
            (result,) = session.run([image])
            return result

        return build, session.manifest.source.model, session.notice or "the build as it stands"
    path = catalog.resolve(run, CACHE)
    spec, _ = inspect(path)
    image, runner = spec.image, OrtRunner(path)
    preprocess = Preprocess.of(image)
    taken = ImageIO(runner.input_names[0], (3, image.height, image.width), order=preprocess.order)
    feeds = Feeder.of(GraphIO(taken), preprocess)

    def export(picture: NDArray[np.uint8]) -> ImageResult:
        placed = feeds.place(picture)
        raw = from_raw_export(runner(feeds.batch([placed])), spec.outputs)
        return ImageResult(None, picture, placed[1], raw, to_original(raw, placed[1]))

    return export, run, "the exported graph in ONNX Runtime"
