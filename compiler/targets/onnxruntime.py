"""ONNX Runtime on the CPU: the reference, the fallback, and what calibration runs on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxgraft.errors import InputError, TargetError
from onnxgraft.ir.ort import open_session
from onnxgraft.options import BuilderOptions
from onnxgraft.targets import traits
from onnxgraft.targets.base import Runner, Target, Wanted
from onnxgraft.targets.engine_info import EngineInfo
from onnxgraft.targets.feeds import checked_feeds
from onnxgraft.targets.trt.messages import tidy

_TYPES = {
    "tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16", "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}  # fmt: skip


class OrtRunner(Runner):
    """One InferenceSession on the CPU; weights in external files are mapped, not copied in Python.

    `threads` bounds the threads of one operator (None: ONNX Runtime's choice, all cores).
    `optimize` False runs the graph as it stands, which checks of single passes want.
    Raises TargetError with ONNX Runtime's own message when the graph does not load.
    """

    def __init__(self, path: Path, threads: int | None = None, optimize: bool = True) -> None:
        if not Path(path).is_file():
            raise InputError(f"{path} is not a file: give an ONNX model")
        try:
            self.session = open_session(Path(path), threads=threads, optimize=optimize)
        except Exception as error:  # ONNX Runtime's classes share no base below Exception
            raise TargetError(f"ONNX Runtime cannot load {path}: {tidy(str(error))}") from error
        self.input_names = tuple(i.name for i in self.session.get_inputs())
        self.output_names = tuple(o.name for o in self.session.get_outputs())
        self._fixed = {
            i.name: (tuple(i.shape), np.dtype(_TYPES[i.type]))
            for i in self.session.get_inputs()
            if i.type in _TYPES and all(isinstance(side, int) for side in i.shape)
        }

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run once; inputs must have the declared shapes and dtypes."""
        missing = [name for name in self.input_names if name not in feeds]
        if missing:
            raise InputError(f"input {missing[0]} is missing: the model takes {self.input_names}")
        arrays: dict[str, Any] = {name: np.asarray(feeds[name]) for name in self.input_names}
        arrays |= checked_feeds({name: arrays[name] for name in self._fixed}, self._fixed)
        try:
            values = self.session.run(None, arrays)
        except Exception as error:
            raise TargetError(f"ONNX Runtime cannot run the model: {tidy(str(error))}") from error
        return dict(zip(self.output_names, values, strict=True))


class OnnxRuntime(Target):
    """Executes the ONNX file itself; plugin ops run as the ONNX functions they are defined by."""

    name = "onnxruntime"
    traits = traits.ONNXRUNTIME
    suffix = ""

    def available(self) -> str | None:
        return None

    def can_run(self) -> str | None:
        return None

    def version(self) -> str:
        return f"onnxruntime {ort.__version__}"

    def build(
        self,
        model: Path,
        engine: Path,
        options: BuilderOptions | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> EngineInfo:
        """See that ONNX Runtime loads the file; there is no engine, so `engine` is not written."""
        started = time.perf_counter()
        OrtRunner(Path(model))
        seconds = time.perf_counter() - started
        notes = ("ONNX Runtime runs model.onnx itself: there is no engine file",)
        return EngineInfo(self.name, self.version(), 0, seconds, 0.0, notes=notes)

    def runner(self, path: Path, threads: int | None = None) -> Runner:
        """`path` is the ONNX model."""
        return OrtRunner(Path(path), threads)

    def trtexec_line(
        self, model: Path, engine: Path, options: BuilderOptions | None = None, weak: Wanted | None = None
    ) -> None:
        return None
