"""Annotations and answers that evaluators are compared on, drawn from seeds; NumPy alone, for detectron2's side too."""

from __future__ import annotations

from typing import Any

import numpy as np

SIZE = (96, 128)
IMAGES = 12
THINGS, STUFF = (3, 7, 9), (20, 25)  # category ids, with gaps as COCO's have
FREQUENCIES = ("r", "c", "f", "f", "c", "r")
_VOID_SHARE = 7


def numbers(seed: int, count: int, below: int) -> list[int]:
    """The same on every machine."""
    return [int(v) % below for v in np.random.Philox(seed).random_raw(count)]


def panoptic_categories() -> list[dict[str, Any]]:
    return [{"id": i, "name": f"c{i}", "isthing": int(i in THINGS)} for i in (*THINGS, *STUFF)]


def panoptic_truth(image: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """ids int64 [H, W] of an image, and its segments."""
    return _segments(1000 + image, (*THINGS, *STUFF), 0)


def panoptic_answer(image: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """What a network might say: most rectangles a little moved, some of another category. Entries as detectron2's."""
    ids, info = _segments(1000 + image, (*THINGS, *STUFF), 2000 + image)
    entries: list[dict[str, Any]] = []
    for segment in info:
        thing = segment["category_id"] in THINGS
        label = THINGS.index(segment["category_id"]) if thing else STUFF.index(segment["category_id"]) + 1
        entries.append({"id": segment["id"], "isthing": thing, "category_id": label} | ({"score": 0.9} if thing else {}))
    return ids.astype(np.int32), entries


def _segments(seed: int, categories: tuple[int, ...], moved: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    ids, info = np.zeros(SIZE, np.int64), []
    for index in range(9):
        y, x, height, width, category, crowd = numbers(seed * 100 + index, 6, 97)
        if moved:
            dy, dx, other, lost = numbers(moved * 100 + index, 4, 10)
            y, x, category = y + dy - 4, x + dx - 4, category + (other == 0)
            if lost == 0:
                continue
        top, left = max(0, y % 80), max(0, x)
        region = (slice(top, top + 12 + height % 40), slice(left, left + 12 + width % 50))
        ids[region] = index + 1
        info.append({"id": index + 1, "category_id": categories[category % len(categories)],
                     "iscrowd": int(not moved and crowd % 9 == 0)})  # fmt: skip
    present = set(np.unique(ids).tolist())
    info = [segment for segment in info if segment["id"] in present]
    for segment in info:
        rows, columns = np.nonzero(ids == segment["id"])
        box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
        segment |= {"area": len(rows), "bbox": box}
    return ids, info


def lvis_truth() -> dict[str, Any]:
    """Annotations in LVIS's form, boxes and polygons."""
    categories = [{"id": i, "name": f"c{i}", "frequency": f, "synset": f"c{i}.n.01"} for i, f in enumerate(FREQUENCIES, 1)]
    images, annotations = [], []
    for image in range(IMAGES):
        negative, loose = numbers(5000 + image, 2, 6)
        images.append({"id": image + 1, "height": SIZE[0], "width": SIZE[1], "neg_category_ids": [negative + 1],
                       "not_exhaustive_category_ids": [loose + 1], "coco_url": f"http://images/{image}.jpg"})  # fmt: skip
        for index in range(5):
            x, y, w, h, label = numbers(6000 + 10 * image + index, 5, 61)
            x2, y2 = x + 5 + w, y % 50 + 5 + h % 40
            annotations.append({
                "id": len(annotations) + 1, "image_id": image + 1, "category_id": label % 6 + 1,
                "bbox": [x, y % 50, x2 - x, y2 - y % 50], "area": (x2 - x) * (y2 - y % 50),
                "segmentation": [[x, y % 50, x2, y % 50, x2, y2, x, y2]],
            })  # fmt: skip
    return {"images": images, "annotations": annotations, "categories": categories}


def lvis_answers() -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes float32 [n, 4], scores [n], classes [n] by image id: more than 300 of the first image."""
    found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    truth = lvis_truth()
    for image in range(IMAGES):
        rows = []
        for entry in [a for a in truth["annotations"] if a["image_id"] == image + 1]:
            x, y, w, h = entry["bbox"]
            dx, dy, other, score = numbers(7000 + entry["id"], 4, 12)
            label = (entry["category_id"] - 1 + (other == 0)) % 6
            rows.append(([x + dx - 5, y + dy - 5, x + w + dx - 5, y + h + dy - 5], 0.5 + score / 30, label))
        for index in range(320 if image == 0 else 20):
            x, y, w, label, score = numbers(8000 + 1000 * image + index, 5, 53)
            rows.append(([x, y, x + 4 + w, y + 9 + w], score / 60, label % 6))
        boxes, scores, classes = (np.array(column) for column in zip(*rows, strict=True))
        limits = [SIZE[1], SIZE[0]] * 2
        found[image + 1] = (np.clip(boxes, 0, limits).astype(np.float32), scores.astype(np.float32), classes.astype(np.int64))
    return found


def person_truth() -> dict[str, Any]:
    """Annotations of persons with COCO's 17 keypoints: some hidden (1), some not annotated (0), one crowd."""
    images, annotations = [], []
    for image in range(IMAGES):
        images.append({"id": image, "height": 480, "width": 640, "file_name": f"{image}.jpg"})
        for index in range(4):
            x, y, w, h = numbers(10_000 + 10 * image + index, 4, 290)
            box = [x, y % 180, 30 + w, 40 + h]
            flat: list[int] = []
            for point in range(17):
                dx, dy, seen = numbers(11_000 + 1000 * image + 100 * index + point, 3, 101)
                visible = (0, 1, 2, 2)[seen % 4]
                flat += [box[0] + dx * box[2] // 101, box[1] + dy * box[3] // 101, visible] if visible else [0, 0, 0]
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": 1, "bbox": box,
                                "area": box[2] * box[3] // 2, "iscrowd": int(image == 3 and index == 0), "keypoints": flat,
                                "num_keypoints": sum(v > 0 for v in flat[2::3])})  # fmt: skip
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def person_answers() -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes float32 [n, 4], scores [n] and keypoints [n, 17, 3] by image id: annotated ones a little moved, and others."""
    found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    truth = person_truth()
    for image in range(IMAGES):
        rows = []
        for entry in [a for a in truth["annotations"] if a["image_id"] == image]:
            dx, dy, spread, score = numbers(12_000 + entry["id"], 4, 19)
            x, y, w, h = entry["bbox"]
            shifts = np.array(numbers(13_000 + entry["id"], 34, 2 * spread + 1)).reshape(17, 2) - spread
            points = np.array(entry["keypoints"], np.float32).reshape(17, 3)
            points[:, :2] += shifts * 1.5 + 0.5
            points[:, 2] = 0.3
            rows.append(([x + dx - 9, y + dy - 9, x + w + dx - 9, y + h + dy - 9], 0.4 + score / 40, points))
        for index in range(6):
            x, y, w, h, score = numbers(14_000 + 100 * image + index, 5, 200)
            points = np.array(numbers(15_000 + 100 * image + index, 51, 300), np.float32).reshape(17, 3)
            rows.append(([x, y, x + 20 + w, y + 20 + h], score / 300, points))
        boxes, scores, keypoints = (np.array(column) for column in zip(*rows, strict=True))
        found[image] = (boxes.astype(np.float32), scores.astype(np.float32), keypoints.astype(np.float32))
    return found


def semantic(image: int) -> tuple[np.ndarray, np.ndarray]:
    """What was found and the truth, int64 [H, W]; classes 0..4, 255 is ignored."""
    bits = np.random.Philox(9000 + image).random_raw(2 * 12 * 16).reshape(2, 12, 16) % 97
    truth = (bits[0] % 5).astype(np.int64)
    found = np.where(bits[1] < 60, truth, bits[1] % 5).astype(np.int64)
    truth[bits[0] % _VOID_SHARE == 0] = 255
    return found.repeat(8, 0).repeat(8, 1), truth.repeat(8, 0).repeat(8, 1)
