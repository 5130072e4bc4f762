"""What becomes of a mask head's answers, beside detectron2's and pycocotools' own code where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxgraft.runtime import masks as mask_ops
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.draw import draw
from onnxgraft.runtime.postprocess import ImageDetections
from onnxgraft.tools.benchmark.process import Rows, measure

SIZES = ((3000, 4000), (800, 1333))  # 12 megapixels, and what detectron2 resizes COCO's pictures to
MASKS, _CELLS = 100, 28
_PASTE, _RUNS, _ENCODE, _DRAW = "paste", "run lengths", "paste and run lengths", "draw"
_PEERS = {
    _PASTE: "detectron2's paste_masks_in_image",
    _RUNS: "pycocotools' encode, masks pasted",
    _ENCODE: "both, as detectron2's evaluator",
    _DRAW: "detectron2's Visualizer, masks pasted",
}
_NEEDS = {_PASTE: ("detectron2",), _RUNS: ("pycocotools",), _ENCODE: ("detectron2", "pycocotools"), _DRAW: ("detectron2",)}


def masks(
    repeat: int = 3, sizes: tuple[tuple[int, int], ...] = SIZES, progress: Callable[[str], None] = lambda _: None
) -> Rows:
    """A table: milliseconds of pasting, encoding and drawing 100 masks, and of a peer's code, in turn in one process.

    Run lengths are made without pasting, so that ours, from probabilities on, stand beside pycocotools' of pasted masks too.

    Args:
        repeat: rounds that are counted.
        sizes: height and width of the pictures.
        progress: called with a word on what runs.
    """
    rows: Rows = [(f"{MASKS} masks", "picture", "ms (median)", "peer", "ms (median)", "ours / peer", "same")]
    for height, width in sizes:
        progress(f"{height}x{width}")
        found: dict[str, dict[str, Any]] = measure(f"{__name__}:of_size", height, width, repeat).result
        for what, one in found.items():
            missing = [name for name in _NEEDS[what] if not one["peer"] and importlib.util.find_spec(name) is None]
            peer = f"absent: {' and '.join(missing)}" if missing else _PEERS[what]
            rows.append((what, f"{height}x{width}", f"{statistics.median(one['ours']):.1f}", peer, *_beside(one)))
    return rows


def _beside(one: dict[str, Any]) -> tuple[str, str, str]:
    """A peer's time, the ratio of ours to it, and whether both give the same."""
    if not one["peer"]:
        return "", "", ""
    ratio = statistics.median(a / b for a, b in zip(one["ours"], one["peer"], strict=True))
    same = {None: "", True: "yes", False: "no"}[one["same"]]
    return f"{statistics.median(one['peer']):.1f}", f"{ratio:.3f}", same


def of_size(height: str, width: str, repeat: str) -> Callable[[], dict[str, dict[str, Any]]]:
    """The rows of `masks` for pictures of one size: milliseconds of each round, and whether the peer gives the same."""
    subject = _Subject((int(height), int(width)))
    there = {name: importlib.util.find_spec(name) is not None for name in ("detectron2", "pycocotools")}
    peers = _peers(subject) if there["detectron2"] else {}
    if there["pycocotools"]:
        peers |= _coco(subject, peers.get(_PASTE))

    def work() -> dict[str, dict[str, Any]]:
        return {what: _row(ours, peers.get(what), int(repeat)) for what, ours in subject.ours().items()}

    return work


@dataclass
class _Subject:
    """100 blobs in boxes of all sizes and forms, and a picture of `size` (H, W)."""

    size: tuple[int, int]

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        height, width = self.size
        noise = [cv2.resize(random.normal(size=(7, 7)), (_CELLS, _CELLS), interpolation=cv2.INTER_CUBIC) for _ in range(MASKS)]
        y, x = np.indices((_CELLS, _CELLS)) - (_CELLS - 1) / 2
        self.masks = (1 / (1 + np.exp(np.hypot(y, x) - 9 - np.stack(noise)))).astype(np.float32)
        side = min(self.size) * np.exp(random.uniform(np.log(0.02), np.log(0.8), MASKS))
        form = np.exp(random.uniform(-0.4, 0.4, MASKS))
        extent = np.minimum(np.stack([side * form, side / form], 1), [width - 1, height - 1])
        corner = random.uniform(0, np.array([width, height]) - extent)
        self.boxes = np.concatenate([corner, corner + extent], 1).astype(np.float32)
        self.scores, self.classes = random.uniform(0.5, 1, MASKS).astype(np.float32), random.integers(0, 80, MASKS)
        small = random.integers(0, 255, (1 + height // 20, 1 + width // 20, 3), dtype=np.uint8)
        self.picture = np.asarray(cv2.resize(small, (width, height)), np.uint8)

    def ours(self) -> dict[str, Callable[[], Any]]:
        """What is measured."""
        found = ImageDetections.of(Detections.of(self.boxes, self.scores, self.classes, self.masks), self.size)

        def encode() -> list[str]:
            return [one["counts"] for one in mask_ops.encode(self.masks, self.boxes, self.size)]

        return {_PASTE: lambda: mask_ops.paste(self.masks, self.boxes, self.size), _RUNS: encode, _ENCODE: encode,
                _DRAW: lambda: draw(self.picture, found)}  # fmt: skip


def _peers(subject: _Subject) -> dict[str, Callable[[], Any]]:
    """detectron2's: pasting, and drawing masks that are pasted already."""
    torch, structures = importlib.import_module("torch"), importlib.import_module("detectron2.structures")
    paste = importlib.import_module("detectron2.layers.mask_ops").paste_masks_in_image
    visualizer = importlib.import_module("detectron2.utils.visualizer").Visualizer
    masks, boxes = torch.from_numpy(subject.masks), torch.from_numpy(subject.boxes)
    instances = structures.Instances(
        subject.size, pred_boxes=structures.Boxes(boxes), pred_masks=paste(masks, boxes, subject.size),
        scores=torch.from_numpy(subject.scores), pred_classes=torch.from_numpy(subject.classes),
    )  # fmt: skip
    return {
        _PASTE: lambda: paste(masks, boxes, subject.size).numpy(),
        _DRAW: lambda: visualizer(subject.picture[:, :, ::-1]).draw_instance_predictions(instances).get_image(),
    }


def _coco(subject: _Subject, paste: Callable[[], NDArray[np.bool_]] | None) -> dict[str, Callable[[], Any]]:
    """pycocotools': of pasted masks as it wants them, and behind detectron2's pasting as its evaluator asks for it."""
    encode = importlib.import_module("pycocotools.mask").encode
    pasted = [_whole(patch, subject.size) for patch in mask_ops.patches(subject.masks, subject.boxes, subject.size)]

    def runs() -> list[str]:
        return [encode(one)["counts"].decode() for one in pasted]

    if paste is None:
        return {_RUNS: runs}

    def both() -> list[str]:
        columns = (np.array(mask[:, :, None], order="F", dtype="uint8") for mask in paste())
        return [encode(one)[0]["counts"].decode() for one in columns]

    return {_RUNS: runs, _ENCODE: both}


def _whole(patch: mask_ops.Patch, size: tuple[int, int]) -> NDArray[np.uint8]:
    picture = np.zeros(size, np.uint8, order="F")
    picture[patch.slices] = patch.mask
    return picture


def _row(ours: Callable[[], Any], peer: Callable[[], Any] | None, repeat: int) -> dict[str, Any]:
    """Rounds in turn after one that warms up."""
    found: dict[str, Any] = {"ours": [], "peer": [], "same": None}
    for round_ in range(repeat + 1):
        mine, seconds = _timed(ours)
        if round_:
            found["ours"].append(seconds)
        if peer is None:
            continue
        theirs, seconds = _timed(peer)
        if round_:
            found["peer"].append(seconds)
        elif isinstance(mine, list) or mine.dtype == bool:  # pictures are drawn in other ways
            found["same"] = bool(np.array_equal(mine, theirs))
    return found


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Its result, and milliseconds."""
    started = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - started) * 1000
