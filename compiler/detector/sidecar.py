"""A file beside the model that says what the graph cannot: class names, channel order, resize rule.

`model.json` beside `model.onnx` (or --sidecar FILE): {"class_names": [...], "config": {...}} with any of the keys of
`FIELDS`, as the golden graphs' meta.json has them. Numbers that stand in the graph too must agree with it. Of a Panoptic
FPN also config.panoptic (detector.panoptic.Combine) and "semantic_class_names".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.detector.panoptic import Combine
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import InputError
from onnxgraft.files import read_json

# Where each key of a config stands in a DetectorSpec: "levels.*.stride" is the stride of every level.
FIELDS = {
    "pixel_mean": "image.mean",
    "pixel_std": "image.std",
    "strides": "rpn.levels.*.stride",
    "fpn_channels": "box_pooler.channels",
    "anchors.sizes": "rpn.levels.*.anchor_sizes",
    "anchors.aspect_ratios": "rpn.levels.0.aspect_ratios",
    "anchors.offset": "rpn.levels.0.anchor_offset",
    "rpn.box_weights": "rpn.coder.weights",
    "rpn.pre_nms_topk": "rpn.pre_nms_topk",
    "rpn.post_nms_topk": "rpn.post_nms_topk",
    "rpn.nms_threshold": "rpn.nms_threshold",
    "rpn.min_box_size": "rpn.min_box_size",
    "box_head.classes": "box_head.num_classes",
    "box_head.box_weights": "box_head.coder.weights",
    "box_head.score_threshold": "box_head.score_threshold",
    "box_head.nms_threshold": "box_head.nms_threshold",
    "box_head.detections": "box_head.detections_per_image",
    "box_head.pooler.resolution": "box_pooler.resolution",
    "box_head.pooler.sampling_ratio": "box_pooler.sampling_ratio",
    "box_head.pooler.aligned": "box_pooler.aligned",
    "mask_head.size": "mask_head.resolution",
    "mask_head.pooler.aligned": "mask_pooler.aligned",
    "keypoint_head.keypoints": "keypoint_head.keypoints",
    "keypoint_head.size": "keypoint_head.resolution",
    "dense.classes": "dense.num_classes",
    "dense.strides": "dense.levels.*.stride",
    "dense.topk": "dense.levels.0.topk",
    "dense.box_weights": "dense.coder.weights",
    "dense.score_threshold": "dense.score_threshold",
    "dense.nms_threshold": "dense.nms_threshold",
    "dense.detections": "dense.detections_per_image",
    "semantic.classes": "semantic.num_classes",
    "semantic.stride": "semantic.stride",
}
EDGES = ("shortest_edge", "longest_edge")
_LONGEST_EDGE = 1 << 20  # pixels
_DEEPEST = 4  # lists in lists of a number's value
_LARGEST = 1e30  # no number of a detector is larger; NaN is not smaller
_TOLERANCE = 1e-3  # relative: configs round what graphs hold in float32


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar file says. Empty where there is none."""

    path: Path | None = None
    class_names: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    semantic_class_names: tuple[str, ...] = ()

    @property
    def channel_order(self) -> str | None:
        """BGR or RGB, when the file says so."""
        order = self.config.get("channel_order")
        return str(order) if order is not None else None

    @property
    def edges(self) -> tuple[int, int]:
        """Shortest and longest edge of the resize rule; detectron2's defaults where the file is silent."""
        shortest, longest = (self.config.get(name) for name in EDGES)
        return 800 if shortest is None else int(shortest), 1333 if longest is None else int(longest)

    @property
    def panoptic(self) -> Combine:
        """How a Panoptic FPN merges instances and semantic map; detectron2's defaults where the file is silent."""
        return Combine.of(self.config.get("panoptic") or {})

    def check(self, spec: DetectorSpec) -> None:
        """Raises InputError naming the first field that the graph contradicts."""
        for key, path in FIELDS.items():
            said = _lookup(self.config, key)
            if said is None:
                continue
            found = _read_spec(spec, path.split("."))
            if found is None or not (_agree(said, found) or _agree(_in_reach(key, said, spec), found)):
                raise InputError(f"{self.path}: {key} is {said}, but the graph has {found}; correct the file or re-export")
        if self.class_names and len(self.class_names) != (spec.num_classes or len(self.class_names)):
            raise InputError(f"{self.path}: {len(self.class_names)} class names, but the graph has "
                             f"{spec.num_classes} classes")  # fmt: skip
        classes, names = spec.semantic.num_classes if spec.semantic else 0, len(self.semantic_class_names)
        if names and names != classes:
            raise InputError(f"{self.path}: {names} semantic class names, but the graph has {classes} semantic classes")


def read(path: Path) -> Sidecar:
    """Read a sidecar file. Raises InputError, in one line, when it cannot be read or is none; null is what is not said."""
    data = read_json(path, "sidecar")
    if not isinstance(data, Mapping):
        raise InputError(f"{path}: no sidecar: expected an object with class_names and config, not {_shown(data)}")
    config = data.get("config")
    config = {} if config is None else config
    if not isinstance(config, Mapping):
        raise InputError(f"{path}: config is {_shown(config)}, expected an object")
    names, semantic = (_names(path, data, key) for key in ("class_names", "semantic_class_names"))
    _refuse_wrong_types(path, config)
    panoptic = config.get("panoptic")
    if panoptic is not None and not isinstance(panoptic, Mapping):
        raise InputError(f"{path}: panoptic is {_shown(panoptic)}, expected an object")
    try:
        Combine.of(panoptic or {})
    except (InputError, OverflowError) as error:
        raise InputError(f"{path}: {error}") from error
    return Sidecar(path, names, config, semantic)


def _names(path: Path, data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    held = data.get(key)
    if held is None:
        return ()
    if not isinstance(held, list) or not all(isinstance(name, str) for name in held):
        raise InputError(f"{path}: {key} is {_shown(held)}, expected a list of names")
    return tuple(held)


def _refuse_wrong_types(path: Path, config: Mapping[str, Any]) -> None:
    order = config.get("channel_order")
    if order not in (None, "BGR", "RGB"):
        raise InputError(f"{path}: channel_order {_shown(order)} is not BGR or RGB")
    for key in EDGES:
        edge = config.get(key)
        whole = isinstance(edge, (int, float)) and not isinstance(edge, bool) and edge == edge // 1
        if edge is not None and not (whole and 1 <= edge <= _LONGEST_EDGE):
            raise InputError(f"{path}: {key} is {_shown(edge)}, expected a number of pixels from 1 to {_LONGEST_EDGE}")
    for key in FIELDS:
        said = _lookup(config, key)
        if said is not None and not _numbers(said):
            raise InputError(f"{path}: {key} is {_shown(said)}, expected a number, or numbers in lists")


def _numbers(value: Any, depth: int = 0) -> bool:
    """Whether it is a finite number, or a list of such, in lists at most."""
    if isinstance(value, (list, tuple)):
        return depth < _DEEPEST and all(_numbers(item, depth + 1) for item in value)
    return isinstance(value, (int, float)) and abs(value) <= _LARGEST


def _shown(value: Any) -> str:
    """What stands in the file, short."""
    if isinstance(value, (list, dict)):
        return f"a {'list' if isinstance(value, list) else 'object'} of {len(value)}"
    return repr(value)[:60] if not isinstance(value, int) or abs(value) < 10**60 else "a number of more than 60 digits"


def _read_spec(value: Any, path: Sequence[str]) -> Any:
    """What stands in a spec at a path; None when it lacks a part on the way."""
    for index, part in enumerate(path):
        if part == "*":
            return [_read_spec(item, path[index + 1 :]) for item in value]
        value = value[int(part)] if part.isdigit() else getattr(value, part)
        if value is None:
            return None
    return value


def _in_reach(key: str, said: Any, spec: DetectorSpec) -> Any:
    """A number that a small canvas bounds: no level gives more candidates than it has anchors."""
    if key != "rpn.pre_nms_topk" or spec.rpn is None or isinstance(said, (list, tuple)):
        return said
    return min(said, max(level.height * level.width * level.anchors for level in spec.rpn.levels))


def _lookup(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _agree(said: Any, found: Any) -> bool:
    a, b = (np.asarray(_flat(v), np.float64) for v in (said, found))
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=_TOLERANCE, atol=1e-6))


def _flat(value: Any) -> list[float]:
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _flat(item)]
    return [float(value)]
