"""The default pipeline: which passes, in which order, with which options."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.options import CompileOptions, settings
from onnxgraft.passes import BUILT_IN
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.registry import ENTRY_POINTS, Registry, load_file
from onnxgraft.pipeline.repeat import Repeat
from onnxgraft.pipeline.syntax import Pipeline
from onnxgraft.targets.releases import Release, release_of
from onnxgraft.targets.traits import TRAITS, TargetTraits, traits_of


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
    """The passes that compile for a target, in order. Raises InputError for a precision that the target lacks."""
    known, traits = registry or known_passes(), traits_of(target)
    exact = options.exact_padding or options.content_size is not None
    release = release_of(options.release) if options.release and traits.releases else None

    def step(name: str, **more: Any) -> Pass:
        return known[name](**{**settings(options, name), **more})

    return Pipeline((
        step("upgrade-opset", **({"version": 22} if options.precision == "bf16" else {})),
        step("repair-roi-align"),
        step("simplify"),
        step("fix-input"),
        step("normalize-input", image_sizes=options.image_sizes or exact),
        *([step("mask-padding")] if exact else []),
        step("inject-anchors"),
        step("decode-boxes"),
        step("rpn-nms"),
        step("take-proposals"),
        step("roi-align"),
        step("box-nms"),
        step("dense-decode"),
        step("dense-nms"),
        step("point-head"),
        step("mask-head"),
        step("keypoint-head"),
        step("deform-conv"),
        step("name-outputs"),
        *([step("fix-content")] if options.content_size is not None else []),
        *(step(name, **more) for name, more in _typing(options.precision, traits, release)),
        *([step("split-topk")] if traits.topk_limit is not None else []),
        step("lower-plugins", target=target),
        *([step("fit-release")] if release is not None else []),
    ))  # fmt: skip


def _typing(precision: str, traits: TargetTraits, release: Release | None) -> list[tuple[str, dict[str, Any]]]:
    """The passes that type the graph, with options. Integer kernels want fp32 around them, Q/DQ pairs take fp16."""
    if precision == "fp32":
        return []
    half = ("fp16", {"weak": True} if release is not None and release.weakly_typed else {})
    if precision == "int8":
        return [("quantize", {}), ("integer-kernels", {}) if traits.int8 == "integer-kernels" else half]
    if precision == "bf16" and release is not None and not release.has_bf16:
        raise InputError(f"TensorRT {release.name} has no bf16, which came with 9.0: give --precision fp16")
    if precision not in traits.types:
        others = " or ".join(other.name for other in TRAITS.values() if precision in other.types)
        raise InputError(f"target {traits.name} has no {precision} kernels: give --target {others}, or another --precision")
    return [half if precision == "fp16" else (precision, {})]
