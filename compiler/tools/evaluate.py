"""Average precision (COCO) and mean IoU of a build, of an exported graph, or of stored detections."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft import targets
from onnxgraft.errors import InputError
from onnxgraft.evaluation import coco
from onnxgraft.evaluation.miou import MeanIoU, read_labels
from onnxgraft.evaluation.truth import SCENES, Truth, from_files, from_scenes, from_semantic
from onnxgraft.files import write_atomically
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.runtime.detections import Detections, from_raw_export
from onnxgraft.runtime.images import ResizeRule, place
from onnxgraft.runtime.postprocess import ImageDetections, to_original
from onnxgraft.runtime.session import ImageResult, Session
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
        engine: see runtime.infer.Session.
        output: gets the result as JSON.
        semantic: folder of `<image name>.png` with the semantic class of each pixel (255: ignored), for mIoU; without
            annotations it says which images count.
        progress: called with (images done, images in all, name of the next).

    Returns:
        {"images", "what", "rows": {subject: report of runtime.coco.evaluate, "semantic": of runtime.miou}}.

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
        write_atomically(output, (json.dumps(report, indent=1) + "\n").encode())
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
    if (Path(run) / "manifest.json").is_file() or Path(run).is_dir():
        session = Session(run, engine=engine)

        def build(image: NDArray[np.uint8]) -> ImageResult:
            (result,) = session.run([image])
            return result

        return build, str(session.manifest["source"]["model"]), session.notice or "the build as it stands"
    path = catalog.resolve(run, Path("build") / ".cache")
    spec, _ = inspect(path)
    name = Graph.load(path).gs.inputs[0].name
    runner = targets.OrtRunner(path)
    image = spec.image

    def export(picture: NDArray[np.uint8]) -> ImageResult:
        tensor, placement = place(picture, (image.height, image.width), ResizeRule(), mean=image.mean,
                                  order="RGB" if image.order == "RGB" else "BGR")  # fmt: skip
        raw = from_raw_export(runner({name: tensor}), spec.outputs)
        return ImageResult(None, picture, placement, raw, to_original(raw, placement))

    return export, run, "the exported graph in ONNX Runtime"


def table(report: dict[str, Any]) -> list[Sequence[str]]:
    """Rows for a terminal: a heading, one row a subject, then one a class; columns of what was measured."""
    subjects = report["rows"]
    columns = [c for c in _COLUMNS if c[0] in ("box", "mask") or any(c[0] in scores for scores in subjects.values())]
    if not any("box" in scores for scores in subjects.values()):
        columns = [c for c in columns if c[0] == "semantic"]
    rows: list[Sequence[str]] = [("", *(heading for _, _, heading in columns))]
    for subject, scores in subjects.items():
        rows.append((subject, *(_number(scores.get(kind, {}).get(metric)) for kind, metric, _ in columns)))
    for subject, scores in subjects.items():
        parts = {kind: scores.get(kind, {}).get("per_class", {}) for kind, _, _ in columns}
        for name in dict.fromkeys(name for kind in parts for name in parts[kind]):
            first = {kind: metric for kind, metric, _ in reversed(columns)}
            cells = [_number(parts[kind].get(name)) if first[kind] == metric else "" for kind, metric, _ in columns]
            rows.append((f"  {subject}: {name}", *cells))
    return rows


_COLUMNS = (
    ("box", "AP", "box AP"), ("box", "AP50", "AP50"), ("box", "AP75", "AP75"),
    ("mask", "AP", "mask AP"), ("mask", "AP50", "AP50"), ("mask", "AP75", "AP75"),
    ("keypoint", "AP", "keypoint AP"), ("keypoint", "AP50", "AP50"), ("keypoint", "AP75", "AP75"),
    ("semantic", "mIoU", "mIoU"), ("semantic", "pACC", "pixel accuracy"),
)  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
