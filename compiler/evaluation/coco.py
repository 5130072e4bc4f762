"""COCO average precision of boxes, masks and keypoints, through faster-coco-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from onnxgraft.errors import InputError
from onnxgraft.evaluation.instances import read_instances
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.postprocess import ImageDetections

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_PERSON_KEYPOINTS, _KEYPOINT_DETECTIONS = 17, 20
LVIS_DETECTIONS = 300
Result = Detections | ImageDetections


def evaluate(
    annotations: str | Path | Mapping[str, Any],
    results: Mapping[int, Result],
    category_ids: Sequence[int] | None = None,
    max_detections: int | None = None,
) -> dict[str, Any]:
    """Box, mask and keypoint AP, through faster-coco-eval. AP is the mean over IoU 0.50:0.95.

    Args:
        annotations: a COCO instances file, or its content.
        results: detections by image id, boxes in pixels of that image. Every annotated image counts; one without a result
            has no detections.
        category_ids: the category of each class index; by default the ids in rising order, as detectron2 numbers them.
        max_detections: of one image that count, the surest first; 100, or LVIS's 300.

    Returns:
        {"images", "detections", "box": {"AP", "AP50", "AP75", "APs", "APm", "APl", "per_class": {name: AP}}, "mask": the
        same, where detections and annotations have masks, "keypoint": {"AP", "AP50", "AP75", "APm", "APl", "per_class"} by
        OKS, where both have COCO's 17 keypoints}. Annotations of LVIS (categories with a frequency, images with the
        categories that were looked for) are judged as LVIS does, and add "APr", "APc", "APf" of rare, common and frequent
        categories. Figures lie in 0..1; None where nothing is annotated.

    Raises:
        InputError: annotations that are none, an image id they do not have, or a class without a category.
    """
    truth = read_instances(annotations)
    ids = list(category_ids or sorted(int(c["id"]) for c in truth["categories"]))
    names = {int(c["id"]): str(c.get("name", c["id"])) for c in truth["categories"]}
    images = {int(image["id"]): image for image in truth["images"]}
    found = {i: _in_image(i, result, images) for i, result in results.items()}
    _check_classes(found, ids)
    lvis = is_lvis(truth)
    max_detections = max_detections or (LVIS_DETECTIONS if lvis else 100)
    if lvis:  # LVIS counts the surest of an image, COCO those of each category
        found = {i: _surest(result, max_detections) for i, result in found.items()}
    report: dict[str, Any] = {
        "images": len(images),
        "detections": sum(len(result) for result in found.values()),
        "box": _score(truth, _boxes(found, ids), "bbox", names, max_detections),
    }
    if _have_masks(truth, found):
        report["mask"] = _score(truth, _masks(found, ids), "segm", names, max_detections)
    if _have_keypoints(truth, found):
        report["keypoint"] = _score(truth, _keypoints(found, ids), "keypoints", names, _KEYPOINT_DETECTIONS)
    return report


def is_lvis(truth: Mapping[str, Any]) -> bool:
    """Whether annotations are LVIS's: every category has a frequency, and every image the categories that it lacks."""
    categories, images = truth["categories"], truth["images"]
    return bool(categories and images) and all("frequency" in c for c in categories) and all(
        "neg_category_ids" in image for image in images)  # fmt: skip


def _surest(result: ImageDetections, count: int) -> ImageDetections:
    return result.select(np.argsort(-result.detections.scores, kind="stable")[:count])


def _in_image(image_id: int, result: Result, images: Mapping[int, Any]) -> ImageDetections:
    if image_id not in images:
        raise InputError(f"image {image_id} has detections, but the annotations do not have it")
    if isinstance(result, ImageDetections):
        return result
    image = images[image_id]
    if "height" not in image or "width" not in image:
        raise InputError(f"image {image_id} of the annotations has no height and width")
    return ImageDetections.of(result, (int(image["height"]), int(image["width"])))


def _check_classes(found: Mapping[int, ImageDetections], ids: Sequence[int]) -> None:
    for image_id, result in found.items():
        classes = result.detections.classes
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(ids):
            raise InputError(
                f"image {image_id} has a detection of class {classes.max()}, but the annotations "
                f"have {len(ids)} categories"
            )


def _have_masks(truth: Mapping[str, Any], found: Mapping[int, ImageDetections]) -> bool:
    given = all(result.detections.masks is not None for result in found.values())
    annotated = all(a.get("segmentation") for a in truth["annotations"])
    return bool(found and given and annotated and truth["annotations"])


def _have_keypoints(truth: Mapping[str, Any], found: Mapping[int, ImageDetections]) -> bool:
    annotated = [a for a in truth["annotations"] if "keypoints" in a]
    given = [result.keypoints for result in found.values()]
    if not annotated or not given or any(keypoints is None for keypoints in given):
        return False
    numbers = {k.shape[1] for k in given if k is not None} | {len(a["keypoints"]) // 3 for a in annotated}
    if numbers != {_PERSON_KEYPOINTS}:
        raise InputError(f"keypoint AP is known for COCO's {_PERSON_KEYPOINTS} keypoints; here are {sorted(numbers)}")
    for annotation in truth["annotations"]:
        annotation.setdefault("keypoints", [0] * 3 * _PERSON_KEYPOINTS)
        annotation.setdefault("num_keypoints", sum(v > 0 for v in annotation["keypoints"][2::3]))
    return True


def _boxes(found: Mapping[int, ImageDetections], ids: Sequence[int]) -> list[dict[str, Any]]:
    entries = []
    for image_id, result in found.items():
        detections = result.detections
        rows = zip(_xywh(detections.boxes), detections.scores, detections.classes, strict=True)
        for box, score, label in rows:
            entry = {"image_id": image_id, "category_id": ids[label], "score": float(score)}
            entries.append({**entry, "bbox": box})
    return entries


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()


def _masks(found: Mapping[int, ImageDetections], ids: Sequence[int]) -> list[dict[str, Any]]:
    entries = []
    for image_id, result in found.items():
        detections = result.detections
        rows = zip(result.encoded() or [], detections.scores, detections.classes, strict=True)
        for rle, score, label in rows:
            entry = {"image_id": image_id, "category_id": ids[label], "score": float(score)}
            entries.append({**entry, "segmentation": rle})
    return entries


def _keypoints(found: Mapping[int, ImageDetections], ids: Sequence[int]) -> list[dict[str, Any]]:
    entries = []
    for image_id, result in found.items():
        if result.keypoints is None:
            raise ValueError("keypoints are needed")
        pixels = result.keypoints.astype(np.float64) - [0.5, 0.5, 0]  # annotations count whole pixels
        detections = result.detections
        rows = zip(pixels.reshape(len(result), -1).tolist(), _xywh(detections.boxes), detections.scores, detections.classes,
                   strict=True)  # fmt: skip
        for flat, box, score, label in rows:
            entry = {"image_id": image_id, "category_id": ids[label], "score": float(score)}
            entries.append({**entry, "keypoints": flat, "bbox": box})  # whose area is the person's, as in detectron2
    return entries


def _score(
    truth: dict[str, Any],
    entries: list[dict[str, Any]],
    kind: str,
    names: Mapping[int, str],
    max_detections: int,
) -> dict[str, Any]:
    rows = {kind: [dict(row) for row in truth[kind]] for kind in ("images", "annotations", "categories")}  # COCO adds to rows
    reference = COCO({**truth, **rows}, print_function=_silent)
    lvis = is_lvis(truth) and kind != "keypoints"
    evaluation = COCOeval_faster(reference, reference.loadRes(entries), kind, print_function=_silent, lvis_style=lvis)
    evaluation.print_function = _silent
    evaluation.params.maxDets = [max_detections] if kind == "keypoints" or lvis else [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    # precision [IoU, recall, class, area, detections], -1 where nothing is annotated
    precision = evaluation.eval["precision"][..., -1]
    thresholds = list(np.round(evaluation.params.iouThrs, 2))
    half, three_quarters = thresholds.index(0.5), thresholds.index(0.75)
    overall, *sizes = (precision[:, :, :, area] for area in range(precision.shape[3]))
    values = (overall, overall[half], overall[three_quarters], *sizes)
    metrics = [m for m in _METRICS if kind != "keypoints" or m != "APs"]  # small persons have no keypoints
    report: dict[str, Any] = {m: _mean(v) for m, v in zip(metrics, values, strict=True)}
    classes = enumerate(evaluation.params.catIds)
    report["per_class"] = {names[c]: _mean(overall[:, :, i]) for i, c in classes}
    if lvis:
        frequency = {int(c["id"]): c["frequency"] for c in truth["categories"]}
        groups = [frequency[c] for c in evaluation.params.catIds]
        for letter in "rcf":
            report[f"AP{letter}"] = _mean(overall[:, :, [i for i, group in enumerate(groups) if group == letter]])
    return report


def _mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _silent(*_: object, **__: object) -> None:
    """Takes the place of print in faster-coco-eval."""
