"""ONNX Runtime on the CPU: the reference, the fallback, and what calibration runs on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxgraft.errors import InputError, TargetError
from onnxgraft.options import BuilderOptions
from onnxgraft.targets import traits
from onnxgraft.targets.base import Runner, Target
from onnxgraft.targets.engine_info import EngineInfo
from onnxgraft.targets.trt.messages import tidy


class OrtRunner(Runner):
    """One InferenceSession on the CPU; weights in external files are mapped, not copied in Python.

    `threads` bounds the threads of one operator (None: ONNX Runtime's choice, all cores).
    `optimize` False runs the graph as it stands, which checks of single passes want.
    Q/DQ are executed as they are written: what ONNX Runtime would fuse them to saturates on CPUs without VNNI, and what it
    moves past other operators costs more than it gains where integer-kernels has been.
    Raises TargetError with ONNX Runtime's own message when the graph does not load.
    """

    def __init__(self, path: Path, threads: int | None = None, optimize: bool = True) -> None:
        if not Path(path).is_file():
            raise InputError(f"{path} is not a file: give an ONNX model")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.inter_op_num_threads = 1
        if threads is not None:
            options.intra_op_num_threads = threads
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self.session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's classes share no base below Exception
            raise TargetError(f"ONNX Runtime cannot load {path}: {tidy(str(error))}") from error
        self.input_names = tuple(i.name for i in self.session.get_inputs())
        self.output_names = tuple(o.name for o in self.session.get_outputs())

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run once; inputs must have the declared shapes and dtypes."""
        missing = [name for name in self.input_names if name not in feeds]
        if missing:
            raise InputError(f"input {missing[0]} is missing: the model takes {self.input_names}")
        arrays = {name: np.asarray(feeds[name]) for name in self.input_names}
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
        self, model: Path, engine: Path, options: BuilderOptions | None = None
    ) -> None:
        return None
