"""The default pipeline: which passes, in which order, with which options."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

from onnxgraft.errors import InputError
from onnxgraft.options import CompileOptions
from onnxgraft.passes import BUILT_IN
from onnxgraft.pipeline.registry import ENTRY_POINTS, Registry, load_file
from onnxgraft.pipeline.repeat import Repeat
from onnxgraft.pipeline.syntax import Pipeline


def known_passes(load: Iterable[str | Path] = ()) -> Registry:
    """Built-in passes, entry points of the group `onnxgraft.passes`, and Pass classes of the given files."""
    registry = Registry([*BUILT_IN, Repeat])
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        registry.add(point.load())
    for path in load:
        for kind in load_file(Path(path)):
            registry.add(kind)
    return registry


def parse_pipeline(text: str, load: Iterable[str | Path] = ()) -> Pipeline:
    """Read a pipeline of known passes from text. Raises InputError that names the place and what is allowed there."""
    return Pipeline.parse(text, known_passes(load))


def default_pipeline(options: CompileOptions, target: str, registry: Registry | None = None) -> Pipeline:
    """The passes that compile for a target, in order."""
    o = options
    steps: list[tuple[str, dict[str, object]]] = [
        ("upgrade-opset", {"version": 22} if o.precision == "bf16" else {}),
        ("repair-roi-align", {"pooler-type": o.pooler_type}),
        ("simplify", {}),
        ("fix-input", {"height": o.height, "width": o.width, "batch": o.batch, "proposals": o.proposals,
                       "allow-unknown-outputs": o.allow_unknown_outputs or None}),
        ("normalize-input", {"order": o.input_order, "layout": o.input_layout, "dtype": o.input_dtype,
                             "image-sizes": o.image_sizes or o.exact_padding}),
        *([("mask-padding", {})] if o.exact_padding else []),
        ("inject-anchors", {}),
        ("decode-boxes", {}),
        ("rpn-nms", {"score-threshold": o.rpn_score_threshold}),
        ("take-proposals", {}),
        ("roi-align", {}),
        ("box-nms", {"score-threshold": o.score_threshold, "iou-threshold": o.iou_threshold,
                     "detections": o.detections}),
        ("dense-decode", {}),
        ("dense-nms", {"score-threshold": o.score_threshold, "iou-threshold": o.iou_threshold,
                       "detections": o.detections}),
        ("mask-head", {}),
        ("keypoint-head", {}),
        ("deform-conv", {}),
        ("name-outputs", {"boxes": o.boxes}),
        *_precision(o, target),
        *([("split-topk", {})] if target != "onnxruntime" else []),
        ("lower-plugins", {"target": target, "nms": o.nms, "roi-align": o.roi_align, "roi-sampling": o.roi_sampling,
                           "deform-conv": o.deform_conv, "max-candidates": o.max_candidates}),
    ]  # fmt: skip
    return Pipeline.parse(",".join(_step(name, settings) for name, settings in steps), registry or known_passes())


def _precision(o: CompileOptions, target: str) -> list[tuple[str, dict[str, object]]]:
    """The passes that type the graph. ONNX Runtime's integer kernels want fp32 around them, TensorRT's take fp16."""
    if o.precision == "fp16":
        return [("fp16", {"keep": o.keep_fp32})]
    if o.precision == "bf16":
        if target == "onnxruntime":
            raise InputError("ONNX Runtime has no bf16 kernels on the CPU: give --target tensorrt or tensorrt-rtx, or fp16")
        return [("bf16", {"keep": o.keep_fp32})]
    if o.precision == "int8":
        quantize: tuple[str, dict[str, object]] = ("quantize", {"keep": o.keep_fp16})
        if target == "onnxruntime":
            return [quantize, ("integer-kernels", {})]
        return [quantize, ("fp16", {"keep": o.keep_fp32})]
    return []


def _step(name: str, settings: dict[str, object]) -> str:
    given = [f"{key}={str(v).lower() if isinstance(v, bool) else v}" for key, v in settings.items() if v is not None]
    return name + ("{" + ",".join(given) + "}" if given else "")
