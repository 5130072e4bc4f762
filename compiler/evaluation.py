"""COCO average precision of a build, of an exported graph, or of stored detections."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft import golden, golden_references, targets
from onnxgraft.errors import InputError
from onnxgraft.graph import Graph
from onnxgraft.inspection import inspect
from onnxgraft.runtime import coco
from onnxgraft.runtime._files import write_atomically
from onnxgraft.runtime.detections import Detections, from_raw_export
from onnxgraft.runtime.images import ResizeRule, place, read_image
from onnxgraft.runtime.infer import Session
from onnxgraft.runtime.postprocess import ImageDetections, to_original

SCENES = 24
Progress = Callable[[int, int, str], None]
Detector = Callable[[NDArray[np.uint8]], ImageDetections]


@dataclass(frozen=True)
class Truth:
    """Annotated pictures: a COCO dictionary, and how to get each picture (uint8 [H, W, 3] BGR) by image id."""

    annotations: dict[str, Any]
    load: Callable[[int], NDArray[np.uint8]]

    @property
    def ids(self) -> list[int]:
        return [int(image["id"]) for image in self.annotations["images"]]

    def name(self, image_id: int) -> str:
        entry = next(i for i in self.annotations["images"] if int(i["id"]) == image_id)
        return str(entry.get("file_name", image_id))


def from_files(images: Path, annotations: Path, limit: int | None = None) -> Truth:
    """A folder of pictures with a COCO instances file. Raises InputError."""
    try:
        data = json.loads(annotations.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{annotations}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise InputError(f"{annotations}: not JSON ({error})") from error
    if not isinstance(data, dict) or not isinstance(data.get("images"), list) or not data["images"]:
        raise InputError(f"{annotations}: no COCO instances: it lists no images")
    files = {int(image["id"]): images / str(image.get("file_name", "")) for image in data["images"]}
    missing = [path for path in files.values() if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: not there, but {annotations.name} annotates it")
    return Truth(limited(data, limit), lambda i: read_image(files[i]))


def from_scenes(count: int = SCENES, base: int | None = None) -> Truth:
    """Scenes drawn from seeds `base` on; by default those of the evaluation set, which no training has seen."""
    module = golden_references.shapes()
    first = module.EVALUATION if base is None else base
    return Truth(module.coco(range(count), first), lambda i: np.asarray(module.scene(i, first)))


def limited(data: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """The first `limit` images with their annotations."""
    if limit is None:
        return data
    images = data["images"][:limit]
    ids = {image["id"] for image in images}
    return {**data, "images": images, "annotations": [a for a in data["annotations"] if a["image_id"] in ids]}


def evaluate(
    run: str,
    images: Path | None = None,
    annotations: Path | None = None,
    limit: int | None = None,
    stored: Path | None = None,
    engine: str = "auto",
    output: Path | None = None,
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
        progress: called with (images done, images in all, name of the next).

    Returns:
        {"images", "what", "rows": {subject: report of runtime.coco.evaluate}}.

    Raises:
        InputError: what was given does not fit together, in one line.
    """
    detect, source, what = _detector(run, engine)
    truth, answers = _truth(source, images, annotations, limit, stored)
    found: dict[int, ImageDetections | Detections] = {}
    for number, image_id in enumerate(truth.ids):
        progress(number, len(truth.ids), truth.name(image_id))
        found[image_id] = detect(truth.load(image_id))
    progress(len(truth.ids), len(truth.ids), "")
    rows = {Path(run).name: coco.evaluate(truth.annotations, found)}
    reference = dict(_stored(answers, truth)) if answers is not None else {}
    if reference:
        rows["stored detections"] = coco.evaluate(truth.annotations, reference)
    report = {"images": len(found), "what": what, "rows": rows}
    if output is not None:
        write_atomically(output, (json.dumps(report, indent=1) + "\n").encode())
    return report


def _truth(
    source: str, images: Path | None, annotations: Path | None, limit: int | None, stored: Path | None
) -> tuple[Truth, Path | None]:
    if (images is None) != (annotations is None):
        raise InputError("give both --images and --annotations, or neither")
    if images is not None and annotations is not None:
        return from_files(images, annotations, limit), stored
    if source.partition("@")[0] != "mask_rcnn":
        raise InputError("give --images DIR and --annotations FILE: only the golden mask_rcnn brings annotated scenes along")
    folder = golden.folder(source) / "evaluation"
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

        def build(image: NDArray[np.uint8]) -> ImageDetections:
            (result,) = session.run([image])
            return result.found

        return build, str(session.manifest["source"]["model"]), session.notice or "the build as it stands"
    path = golden.resolve(run, Path("build") / ".cache")
    spec, _ = inspect(path)
    name = Graph.load(path).gs.inputs[0].name
    runner = targets.OrtRunner(path)
    image = spec.image

    def export(picture: NDArray[np.uint8]) -> ImageDetections:
        tensor, placement = place(picture, (image.height, image.width), ResizeRule(), mean=image.mean,
                                  order="RGB" if image.order == "RGB" else "BGR")  # fmt: skip
        return to_original(from_raw_export(runner({name: tensor}), spec.outputs), placement)

    return export, run, "the exported graph in ONNX Runtime"


def table(report: dict[str, Any]) -> list[Sequence[str]]:
    """Rows for a terminal: a heading, one row a subject, then one a class."""
    rows: list[Sequence[str]] = [("", "box AP", "AP50", "AP75", "mask AP", "AP50", "AP75")]
    for subject, scores in report["rows"].items():
        cells = [_number(scores.get(kind, {}).get(m)) for kind in ("box", "mask") for m in ("AP", "AP50", "AP75")]
        rows.append((subject, *cells))
    for subject, scores in report["rows"].items():
        for name, value in scores["box"]["per_class"].items():
            mask = scores.get("mask", {}).get("per_class", {}).get(name)
            rows.append((f"  {subject}: {name}", _number(value), "", "", _number(mask), "", ""))
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
