"""Targets: what each accepts, how an engine is built for it, loaded and run."""

from __future__ import annotations

from onnxgraft.errors import InputError
from onnxgraft.options import BuilderOptions
from onnxgraft.targets.base import Runner, Target
from onnxgraft.targets.engine_info import EngineInfo, LayerInfo
from onnxgraft.targets.onnxruntime import OnnxRuntime, OrtRunner
from onnxgraft.targets.tensorrt import TensorRT
from onnxgraft.targets.tensorrt_rtx import TensorRTRTX

__all__ = [
    "BuilderOptions",
    "EngineInfo",
    "LayerInfo",
    "OrtRunner",
    "Runner",
    "Target",
    "auto",
    "get",
    "names",
]

_TARGETS: tuple[type[Target], ...] = (TensorRT, TensorRTRTX, OnnxRuntime)


def names() -> tuple[str, ...]:
    """Every name that `get` takes, "auto" last."""
    return (*(target.name for target in _TARGETS), "auto")


def get(name: str) -> Target:
    """The target of this name; "auto" chooses. Raises InputError for another name."""
    if name == "auto":
        return auto()[0]
    for target in _TARGETS:
        if target.name == name:
            return target()
    raise InputError(f"there is no target {name!r}: give one of {', '.join(names())}")


def auto() -> tuple[Target, str]:
    """The first target that can build here, and why the ones before it cannot.

    tensorrt when its module loads and a GPU answers, else tensorrt-rtx, else onnxruntime.
    """
    reasons = []
    for kind in _TARGETS:
        target = kind()
        reason = target.available()
        if reason is None:
            break
        reasons.append(f"not {target.name}: {reason}")
    return target, "; ".join(reasons) or f"{target.name} is installed and a GPU answers"
