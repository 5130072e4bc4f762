"""ONNX Runtime on the CPU: the one place that opens a session."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from onnxgraft.errors import InputError

SILENT = 4  # of ONNX Runtime's severities: only what is fatal is written to stderr


def open_session(model: Path | bytes, *, threads: int | None = None, optimize: bool = True) -> ort.InferenceSession:
    """A session of a model, in which Q/DQ are executed as they are written.

    What ONNX Runtime would fuse Q/DQ to saturates on CPUs without VNNI, and what it moves past other operators costs more
    than it gains where integer-kernels has been.

    Args:
        model: a file, whose external weights are mapped, or the bytes of one.
        threads: of one operator; None leaves the choice to ONNX Runtime: all cores.
        optimize: False runs the graph as it stands.

    Raises:
        Exception: of ONNX Runtime's own, which share no base below it, when the model does not load.
    """
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_pattern = False  # one block for all tensors, beside what the first run took: twice the memory, no faster
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the cores to others
    source = model if isinstance(model, bytes) else str(model)
    if isinstance(source, str) and source.encode(errors="replace").decode() != source:
        raise InputError(f"{source}: ONNX Runtime opens no file whose name is not UTF-8: rename it, or its folder")
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def told(error: Exception) -> str:
    """ONNX Runtime's own words in one short line."""
    return " ".join(str(error).split())[:200]
