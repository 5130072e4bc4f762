"""Every option of a compilation, declared once: type, values, help, the passes that take it, the commands that offer it.

The command line, the default pipeline, replays, the manifest and docs/options.md follow from the declarations below.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from onnxgraft.errors import InputError
from onnxgraft.options.opt import Checked, Declared, Opt, as_dict, as_flags, declared, given, settings, without_effect
from onnxgraft.options.values import Between, Count, NameOf, Share, Size, coerce, coerce_fields, hints_of, optional, type_text

__all__ = [
    "Between", "BuilderOptions", "CalibrationOptions", "Checked", "CompileOptions", "Count", "Declared", "Form",
    "Method", "NameOf", "Opt", "Options", "Percentile", "RunOptions", "Share", "Size", "as_dict", "as_flags", "coerce",
    "coerce_fields", "declared", "given", "hints_of", "optional", "settings", "type_text", "without_effect",
]  # fmt: skip

Form = Literal["auto", "native", "plugin"]
Method = Literal["entropy", "percentile", "minmax", "mse"]
Percentile = Annotated[float, Between(0, 100, above=True)]
_ALL = "build bisect calibrate"
_CANVAS = Size(1344, 1344)

_precision = partial(Opt, group="Precision")
_input = partial(Opt, group="Input")
_detections = partial(Opt, group="Detections", on=_ALL)
_lowering = partial(Opt, group="Lowering", to=("lower-plugins",))
_int8 = partial(Opt, group="Calibration", serves=("quantize",), when="--precision int8")


@dataclass(frozen=True, kw_only=True)
class CompileOptions(Checked):
    """What the passes of the default pipeline are asked for. Raises InputError for a value that is not allowed."""

    precision: Annotated[Literal["fp32", "fp16", "bf16", "int8"], _precision("Type of the network.")] = "fp32"
    keep_fp16: Annotated[str | None, _precision(
        "Layers kept higher than int8, such as first-conv+rpn+fpn/2.", ("quantize.keep",), when="--precision int8",
    )] = None
    keep_fp32: Annotated[str | None, _precision(
        "Layers that stay in fp32, named alike.", ("fp16.keep", "bf16.keep"), when="--precision fp16 or bf16",
    )] = None
    size: Annotated[Size, _input(
        "Canvas of the input, multiples of 32, or the export's own.", ("fix-input",), on=_ALL,
    )] = _CANVAS
    batch: Annotated[Count, _input("Images per inference.", ("fix-input",))] = 1
    proposals: Annotated[Count | None, _input(
        "Fast R-CNN: proposals of an image; 1000 when not given.", ("fix-input",), on=_ALL,
    )] = None
    input_order: Annotated[Literal["model", "BGR", "RGB"], _input(
        "Channel order; model leaves it as it was exported.", ("normalize-input.order",),
    )] = "model"
    input_layout: Annotated[Literal["NCHW", "NHWC"], _input("Layout.", ("normalize-input.layout",))] = "NCHW"
    input_dtype: Annotated[Literal["float32", "uint8"], _input("Type.", ("normalize-input.dtype",))] = "float32"
    image_sizes: Annotated[bool, _input("Add an input [N,2] with the true size of each image.", ("normalize-input",))] = False
    exact_padding: Annotated[bool, _input(
        "Answers that do not depend on the canvas (adds image_sizes).", serves=("mask-padding",),
    )] = False
    content_size: Annotated[Size | None, _input(
        "The same for pictures of one size on the canvas; what lies around may be anything.", ("fix-content",),
    )] = None
    allow_unknown_outputs: Annotated[bool, _detections("Leave outputs as they are that are not known.", ("fix-input",))] = False
    boxes: Annotated[Literal["normalized", "pixels"], _detections(
        "Unit of the boxes.", ("name-outputs",), on="build bisect",
    )] = "normalized"
    score_threshold: Annotated[Share | None, _detections(
        "Override the detections' score threshold.", ("box-nms", "dense-nms"),
    )] = None
    iou_threshold: Annotated[Share | None, _detections(
        "Override the detections' NMS threshold.", ("box-nms", "dense-nms"),
    )] = None
    detections: Annotated[Count | None, _detections("Override detections per image.", ("box-nms", "dense-nms"))] = None
    rpn_score_threshold: Annotated[Share, _detections(
        "Score threshold of proposals; detectron2 has none.", ("rpn-nms.score_threshold",),
    )] = 0.0
    pooler_type: Annotated[Literal["ROIAlignV2", "ROIAlign"], _lowering(
        "What an export below opset 16 meant.", to=("repair-roi-align",), on=_ALL + " inspect",
    )] = "ROIAlignV2"
    nms: Annotated[Form, _lowering("Form of NMS.")] = "auto"
    roi_align: Annotated[Form, _lowering("Form of RoIAlign.")] = "auto"
    roi_sampling: Annotated[Literal["exact", "masked4", "fixed2"], _lowering("Sampling grid of the native RoIAlign.")] = "exact"
    deform_conv: Annotated[Form, _lowering("Form of deformable convolution.")] = "auto"
    max_candidates: Annotated[Count | None, _lowering("Native NMS: boxes that enter.")] = None  # fmt: skip
    release: Annotated[str | None, _lowering(
        "Write for this TensorRT, such as 8.6, 10.3 or jetpack6.1: model.onnx and a trtexec line; no engine is built.",
        to=("fit-release",), flag="--for", when="--target tensorrt", on="build",
    )] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        inner, size = self.content_size, self.size
        if inner is not None and not (0 < inner.height <= size.height and 0 < inner.width <= size.width):
            raise InputError(f"--content-size {inner}: no part of the canvas of {size}")


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(Checked):
    """Where the ranges of int8 come from."""

    calib: Annotated[Path | None, _int8("Folder of images, calibration.json or calibration.cache.")] = None
    calib_method: Annotated[Method, _int8("How ranges follow from the statistics.")] = "mse"
    calib_percentile: Annotated[Percentile, _int8("For --calib-method percentile.")] = 99.99
    calib_images: Annotated[Count | None, _int8("Use at most so many calibration images.")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calib_percentile != CalibrationOptions.calib_percentile and self.calib_method != "percentile":
            raise InputError("--calib-percentile has no effect here: give --calib-method percentile too")


_steps = partial(Opt, group="Passes")
_checks = partial(Opt, group="Checks", on="build")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Checked):
    """What is run: the target, the passes, and what is checked and kept on the way."""

    target: Annotated[str, NameOf("target"), Opt("Where the engine runs.")] = "auto"
    sidecar: Annotated[Path | None, Opt("Class names and config [MODEL.json beside it].", on=_ALL)] = None
    bounds: Annotated[Count, Opt("Widen the bounds on what a model may ask for, so many times.", on=_ALL + " inspect")] = 1
    variants: Annotated[tuple[str, ...], Opt(
        "Another canvas and batch in the same folder, such as 800x1344:8 (repeatable); --size A,B --batch N,M gives all.",
        flag="--variant", on="build",
    )] = ()
    passes: Annotated[str | None, _steps("A pipeline instead of the default one.")] = None
    skip: Annotated[tuple[str, ...], _steps("Leave out a pass (repeatable).")] = ()
    stop_after: Annotated[str | None, _steps("Stop after this pass; no engine is built.", on="build")] = None
    load: Annotated[tuple[Path, ...], _steps("A Python file with passes of yours (repeatable).", on="build bisect passes")] = ()
    print_after: Annotated[str | None, _checks("Print the graph after this pass.")] = None
    print_changed: Annotated[bool, _checks("Print the graph after each pass that changed it.")] = False
    checks: Annotated[bool, _checks("Verify the graph and keep its text after each pass.")] = True
    check_numerics: Annotated[bool, _checks("Compare detections after each pass, in ONNX Runtime.")] = False
    proof: Annotated[bool, _checks("Prove that the answers are those of the file.")] = True
    proof_images: Annotated[Count, _checks("Pictures to prove it on; a batch takes as many as it has rows.")] = 1
    images: Annotated[tuple[Path, ...], _checks(
        "Pictures to compare detections on (repeatable).", on="build bisect",
    )] = ()
    engine: Annotated[bool, _checks("Build the engine.", group="Engine")] = True  # fmt: skip


def _engine(text: str, flag: str) -> Opt:
    return Opt(text, flag=flag, on="build", group="Engine")


@dataclass(frozen=True, kw_only=True)
class BuilderOptions(Checked):
    """How an engine is built; each option has the name of the trtexec flag that does the same.

    What one target lacks is refused or noted when the engine is built, not here.
    """

    workspace: Annotated[float | None, Between(0, above=True), _engine("Workspace in MiB.", "--memPoolSize")] = None
    builder_optimization_level: Annotated[int | None, Between(0, 5), _engine(
        "From the fastest build to the fastest engine; TensorRT's own is 3.", "--builderOptimizationLevel",
    )] = None
    timing_cache: Annotated[Path | None, _engine("Timing cache, read and written.", "--timingCacheFile")] = None
    compute_capabilities: Annotated[tuple[str, ...], _engine(
        "GPUs to build for, such as 8.6,8.9 (TensorRT for RTX); 8.0 and later without it.", "--computeCapabilities",
    )] = ()
    hardware_compatibility_level: Annotated[Literal["none", "ampere+", "sameComputeCapability"], _engine(
        "Other GPUs that the engine runs on (not TensorRT for RTX).", "--hardwareCompatibilityLevel",
    )] = "none"
    version_compatible: Annotated[bool, _engine("Load in later versions too.", "--versionCompatible")] = False
    strip_weights: Annotated[bool, _engine("Leave weights out; they are refitted later.", "--stripWeights")] = False
    refit: Annotated[bool, _engine("Weights can be replaced later.", "--refit")] = False
    no_tf32: Annotated[bool, _engine("fp32 layers never round to TF32, as --precision fp32 has it.", "--noTF32")] = False
    profiling_verbosity: Annotated[Literal["none", "layer_names_only", "detailed"], _engine(
        "What the engine tells of its layers.", "--profilingVerbosity",
    )] = "detailed"  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        named = tuple(name for text in self.compute_capabilities for name in text.split(",") if name)
        object.__setattr__(self, "compute_capabilities", named)

    def trtexec_flags(self) -> list[str]:
        """The options that differ from trtexec's defaults, as trtexec writes them."""
        flags = []
        for option in declared(BuilderOptions):
            value = getattr(self, option.name)
            if option.name == "workspace" and value is not None:
                flags.append(f"{option.flag}=workspace:{value:g}")
            elif option.name == "compute_capabilities" and value:
                flags.append(f"{option.flag}={','.join(value).replace('.', '')}")
            elif value is True:
                flags.append(option.flag)
            elif value not in (None, False, (), "none", "layer_names_only"):
                flags.append(f"{option.flag}={value}")
        return flags


@dataclass(frozen=True, kw_only=True)
class Options(BuilderOptions, RunOptions, CalibrationOptions, CompileOptions):
    """Everything that `compile` can be asked for; the last base's options come first."""
