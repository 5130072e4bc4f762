"""What a user can ask of a compilation, and the default pipeline that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxgraft.errors import InputError
from onnxgraft.pipeline import Pipeline, Registry

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """Options of the passes of the default pipeline, under the names of the command line."""

    precision: str = "fp32"
    height: int = 1344
    width: int = 1344
    batch: int = 1
    proposals: int | None = None
    allow_unknown_outputs: bool = False
    input_order: str = "model"
    input_layout: str = "NCHW"
    input_dtype: str = "float32"
    image_sizes: bool = False
    exact_padding: bool = False
    boxes: str = "normalized"
    rpn_score_threshold: float = 0.0
    score_threshold: float | None = None
    iou_threshold: float | None = None
    detections: int | None = None
    pooler_type: str = "ROIAlignV2"
    nms: str = "auto"
    roi_align: str = "auto"
    roi_sampling: str = "exact"
    deform_conv: str = "auto"
    max_candidates: int | None = None
    keep_fp16: str | None = None
    keep_fp32: str | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")


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
    return Pipeline.parse(",".join(_step(name, settings) for name, settings in steps), registry)


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
