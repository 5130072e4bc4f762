"""Targets: what each accepts, how an engine is built for it, loaded and run.

What is needed to name a target, and what passes ask of one, is plain data; a target's module is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxgraft.errors import InputError
from onnxgraft.options import BuilderOptions
from onnxgraft.targets.base import Runner, Target
from onnxgraft.targets.engine_info import EngineInfo, LayerInfo

if TYPE_CHECKING:
    from onnxgraft.targets.onnxruntime import OrtRunner as OrtRunner

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

_TARGETS = {  # by name, in the order in which `auto` tries them: module and class
    "tensorrt": ("tensorrt", "TensorRT"),
    "tensorrt-rtx": ("tensorrt_rtx", "TensorRTRTX"),
    "onnxruntime": ("onnxruntime", "OnnxRuntime"),
}


def names() -> tuple[str, ...]:
    """Every name that `get` takes, "auto" last."""
    return (*_TARGETS, "auto")


def get(name: str) -> Target:
    """The target of this name; "auto" chooses. Raises InputError for another name."""
    if name == "auto":
        return auto()[0]
    if name not in _TARGETS:
        raise InputError(f"there is no target {name!r}: give one of {', '.join(names())}")
    module, kind = _TARGETS[name]
    target: Target = getattr(importlib.import_module(f"{__name__}.{module}"), kind)()
    return target


def auto() -> tuple[Target, str]:
    """The first target that can build here, and why the ones before it cannot.

    tensorrt when its module loads and a GPU answers, else tensorrt-rtx, else onnxruntime.
    """
    reasons = []
    for target in map(get, _TARGETS):
        reason = target.available()
        if reason is None:
            break
        reasons.append(f"not {target.name}: {reason}")
    return target, "; ".join(reasons) or f"{target.name} is installed and a GPU answers"


def __getattr__(name: str) -> Any:
    if name == "OrtRunner":
        return importlib.import_module(f"{__name__}.onnxruntime").OrtRunner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
