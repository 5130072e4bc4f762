"""Reads a network's outputs as detections: of a compiled graph by name, of an export by shape and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.detector.output_forms import OutputForm, undone
from onnxgraft.detector.outputs import TENSORS, Role
from onnxgraft.detector.spec import Outputs
from onnxgraft.errors import InputError
from onnxgraft.manifest import GraphIO
from onnxgraft.runtime.detections import Detections

Arrays = Mapping[str, NDArray[Any]]
_NEEDED = (Role.NUM_DETECTIONS, Role.BOXES, Role.SCORES)
_MAP_RANKS = {Role.MASKS: 2, Role.HEATMAPS: 3}  # axes of one detection's map


def from_outputs(outputs: Arrays, io: GraphIO, image_index: int = 0, names: Mapping[Role, str] = TENSORS) -> Detections:
    """One image of a compiled graph's batch, boxes in pixels of the canvas.

    Args:
        outputs: arrays by name, shaped as detector.outputs.OUTPUTS says: num_detections, boxes and scores and, where there
            are any, classes (one class without them), masks, heatmaps, semantic logits. Rows past num_detections are
            ignored (they hold class 0). Maps may also be [N * D, ...], as they are before they are shaped. A network that
            has nothing but semantic logits detects nothing.
        io: says whether boxes are normalized, and by which canvas.
        image_index: which image of the batch.
        names: of the outputs, by role; those that a compiled graph has.

    Raises:
        InputError: an output is missing.
    """
    found = {role: np.asarray(outputs[name]) for role, name in names.items() if name in outputs}
    semantic = found[Role.SEMANTIC][image_index] if Role.SEMANTIC in found else None
    if semantic is not None and not any(role in found for role in _NEEDED):
        return Detections.of([], [], [], semantic=semantic)
    for role in _NEEDED:
        if role not in found:
            raise InputError(f"the network has no output {names.get(role, role.value)!r}; it gives {sorted(outputs)}")
    counts = found[Role.NUM_DETECTIONS].reshape(-1)
    n = int(counts[image_index])
    boxes = np.asarray(found[Role.BOXES][image_index, :n], np.float32)
    if io.boxes == "normalized":
        height, width = io.image.canvas
        boxes = boxes * np.array([width, height, width, height], np.float32)
    classes = found[Role.CLASSES][image_index, :n] if Role.CLASSES in found else np.zeros(n, np.int64)
    masks, heatmaps = (
        found[role].reshape(len(counts), -1, *found[role].shape[-rank:])[image_index, :n] if role in found else None
        for role, rank in _MAP_RANKS.items()
    )
    return Detections.of(boxes, found[Role.SCORES][image_index, :n], classes, masks, heatmaps, semantic)


def from_raw_export(outputs: Arrays, roles: Outputs | None = None, forms: Sequence[OutputForm] = ()) -> Detections:
    """Detections of a graph as detectron2 exports it, whose outputs have no fixed names or order.

    Args:
        outputs: recognised by shape and dtype: boxes float [n, 4] in pixels of the canvas, masks float [n, 1, M, M],
            heatmaps float [n, K, S, S], scores float [n], classes int [n] (one class without them), semantic logits float
            [1, C, h, w] or [C, h, w]; the image size int [2] is ignored. With n = 2 the image size has the classes' shape:
            then the larger pair is the size.
        roles: what an analysis found, which settles what shapes leave open.
        forms: outputs that the analysis found in another form, which is undone.

    Raises:
        InputError: one of them is missing.
    """
    arrays = {name: np.asarray(a) for name, a in undone(outputs, forms).items()}
    named = _named_maps(arrays, roles)
    floats = [a for a in arrays.values() if a.dtype.kind == "f"]
    if len(floats) == len(arrays) == 1 and floats[0].ndim in (3, 4):
        return Detections.of([], [], [], semantic=_first(floats[0]))
    boxes = _one("boxes", [a for a in floats if a.ndim == 2 and a.shape[1] == 4])
    n = len(boxes)
    scores = _one("scores", [a for a in floats if a.shape == (n,)])
    integers = [a for a in arrays.values() if a.dtype.kind in "iu" and a.shape == (n,)]
    if n == 2:
        integers = sorted(integers, key=lambda a: int(a.min()))[:1]
    classes = _one("classes", integers) if integers else np.zeros(n, np.int64)
    maps = named or _maps_by_shape([a for a in floats if a.ndim == 4], n)
    masks = maps.get(Role.MASKS)
    return Detections.of(
        boxes,
        scores,
        classes,
        None if masks is None else masks[:, 0],
        maps.get(Role.HEATMAPS),
        _first(maps[Role.SEMANTIC]) if Role.SEMANTIC in maps else None,
    )


def _named_maps(arrays: Arrays, roles: Outputs | None) -> dict[Role, NDArray[Any]]:
    if roles is None:
        return {}
    names = {
        Role.MASKS: roles.masks_tensor,
        Role.HEATMAPS: roles.heatmaps_tensor,
        Role.SEMANTIC: roles.semantic_tensor,
    }
    return {role: arrays[name] for role, name in names.items() if name is not None and name in arrays}


def _maps_by_shape(maps: list[NDArray[Any]], n: int) -> dict[Role, NDArray[Any]]:
    """Masks have one channel and are probabilities; heatmaps are square, one a detection; the rest is semantic."""
    found: dict[Role, NDArray[Any]] = {}
    for a in maps:
        if a.shape[:2] == (n, 1) and (not a.size or (a.min() >= 0 and a.max() <= 1)):
            role = Role.MASKS
        elif a.shape[0] == n and a.shape[2] == a.shape[3] and not (n == 1 and len(maps) > 1):
            role = Role.HEATMAPS
        else:
            role = Role.SEMANTIC
        if role in found:
            raise InputError(f"the outputs are not those of a detectron2 export: two of them look like the {role.value}")
        found[role] = a
    return found


def _first(maps: NDArray[Any]) -> NDArray[Any]:
    """The first image's map of [N, C, h, w]; [C, h, w] as it is."""
    return maps[0] if maps.ndim == 4 else maps


def _one(what: str, found: list[NDArray[Any]]) -> NDArray[Any]:
    if len(found) != 1:
        raise InputError(
            f"the outputs are not those of a detectron2 export: {len(found)} of them look like the {what}, expected one"
        )
    return found[0]
