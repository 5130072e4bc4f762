"""The report's first page as plain data: what was built for whom, its sizes, its inputs and outputs, and what it is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onnxgraft.detector.describe import spec_rows
from onnxgraft.detector.outputs import OUTPUTS, Role
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import InputError
from onnxgraft.files import parsed, read_json
from onnxgraft.manifest import IMAGE_SIZES, MANIFEST, PROPOSALS_INPUT, Manifest

Rows = list[tuple[str, ...]]
EVALUATION = "evaluation.json"  # what `onnxgraft eval RUN --json RUN/evaluation.json` leaves
FLOOR = "floor.json"  # what `onnxgraft bench RUN --floor --json RUN/floor.json` leaves
_MEANS = {
    Role.NUM_DETECTIONS: "how many rows of the others are real",
    Role.BOXES: "x1, y1, x2, y2",
    Role.SCORES: "0 to 1, the surest first",
    Role.CLASSES: "class numbers, from 0",
    Role.MASKS: "probabilities, to be pasted into the box",
    Role.HEATMAPS: "logits of the keypoints, over the box",
    Role.SEMANTIC: "logits of each class, at a stride",
}


def built(manifest: Manifest) -> Rows:
    """What was built for whom: a name and a value a row."""
    image = manifest.io.input
    rows: Rows = [("from", f"{manifest.source.model} (opset {manifest.source.opset}, sha256 {manifest.source.sha256[:12]})")]
    rows.append(("for", manifest.target + (f" ({manifest.target_reason})" if manifest.target_reason else "")))
    rows.append(("precision", manifest.precision))
    if image is not None:
        images = f"{image.batch} image{'s' * (image.batch != 1)} at a time"
        rows.append(("canvas", f"{image.canvas[0]} x {image.canvas[1]}, {images}"))
    if manifest.io.content is not None:
        rows.append(("pictures on", "{} x {} at its top left; what lies around does not matter".format(*manifest.io.content)))
    rows += [("also", name.replace("_batch", ", batch ")) for name in manifest.variants]
    main = [name for name in (manifest.engine, manifest.model, manifest.runnable) if name in manifest.sizes]
    rows += [(name or "", _size(manifest.sizes[name or ""])) for name in dict.fromkeys(main)]
    if manifest.calibration:
        sources = manifest.calibration.get("from")
        rows.append(("calibration", "; ".join(map(str, sources if isinstance(sources, list) else ()))))
    return rows


def ends(manifest: Manifest) -> Rows:
    """The inputs and outputs: side, tensor, shape, content."""
    image, rows = manifest.io.input, list[tuple[str, ...]]()
    if image is not None:
        what = f"{image.dtype}, pixels 0..255, {image.order} {image.layout}; padding is the pixel mean"
        rows.append(("input", image.name, _shape(image.shape), what))
    if manifest.io.image_sizes and image is not None:
        rows.append(("input", IMAGE_SIZES, _shape((image.batch, 2)), "float32, height and width of each image on the canvas"))
    if manifest.io.proposals is not None:
        rows.append(("input", PROPOSALS_INPUT, _shape(manifest.io.proposals.shape), "float32, boxes to classify"))
    known = {output.tensor: output for output in OUTPUTS}
    unit = "divided by the canvas" if manifest.io.boxes == "normalized" else "in pixels of the canvas"
    for name, shape in manifest.io.outputs.items():
        output = known.get(name)
        what = "" if output is None else f"{output.dtype}, {_MEANS[output.role]}"
        boxes = output is not None and output.role is Role.BOXES
        rows.append(("output", name, _shape(shape), f"{what} {unit}" if boxes else what))
    return rows


def layers(manifest: Manifest | None, graph: Any) -> tuple[str, Rows]:
    """What the engine's layers compute in, else the operators of the compiled graph: a heading, and kind, type, count a row.

    Raises InputError: the record of nodes or what the manifest says of the engine is damaged.
    """
    try:
        return _layers(manifest, graph)
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        what = f"the record of nodes, or the engine's layers in {MANIFEST}, is damaged ({str(error)[:100]})"
        raise InputError(f"{what}; build it again") from error


def _layers(manifest: Manifest | None, graph: Any) -> tuple[str, Rows]:
    told = (manifest.engine_info or {}).get("layer_types") if manifest else None
    if isinstance(told, dict) and told:
        found = [(str(kind), str(of), int(n)) for kind, types in told.items() for of, n in types.items()]
        return "Layers of the engine", [(k, t, str(n)) for k, t, n in sorted(found, key=lambda row: -row[2])]
    if not graph.get("stages"):
        return "Operators", []
    counts: Counter[tuple[str, str]] = Counter()
    for index in graph["stages"][-1]["nodes"]:
        node = graph["nodes"][index]
        if node[1] != "Constant":
            counts[node[1], str(node[4][0]).partition("[")[0] if node[4] else ""] += 1
    return "Operators of the compiled graph", [(op, kind, str(n)) for (op, kind), n in counts.most_common()]


def detector(spec: Mapping[str, Any]) -> Rows:
    """A spec in the words of `onnxgraft inspect`: part, what, value; nothing where it is not one of ours."""
    if not spec:
        return []
    try:
        held = parsed(DetectorSpec, spec, MANIFEST, "spec")
        return list(spec_rows(held))
    except (InputError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
        return []


def accuracy(folder: Path) -> Rows:
    """The figures of an evaluation that lies in the folder: subject, and metric with value; nothing without one."""
    if not (folder / EVALUATION).is_file():
        return []
    try:
        report = read_json(folder / EVALUATION)
        rows = [(subject, " ".join(_figures(kinds))) for subject, kinds in report["rows"].items()]
        return [*rows, ("", f"on {report['images']} images: {report['what']}")]
    except (InputError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return []


def floor(folder: Path) -> list[Rows]:
    """The tables of the least time, headings first: parts with what they compute, and GPUs with milliseconds; nothing without
    them."""
    if not (folder / FLOOR).is_file():
        return []
    try:
        held = read_json(folder / FLOOR)
        tables = [[tuple(map(str, rows[0])), *(tuple(map(str, row.values())) for row in rows)] for rows in held]
        return tables if all(len({len(row) for row in rows}) == 1 for rows in tables) else []
    except (InputError, LookupError, TypeError, ValueError, AttributeError):
        return []


def _figures(kinds: Mapping[str, Any]) -> Iterator[str]:
    first = {"box": "AP", "mask": "AP", "keypoint": "AP", "panoptic": "PQ", "semantic": "mIoU"}
    for kind, figures in kinds.items():
        value = figures.get(first.get(kind, ""))
        if isinstance(value, (int, float)):
            yield f"{kind} {first[kind]} {value:.4f}"


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def _shape(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
