"""Does what a trtexec line says, by the Python bindings of TensorRT 8.5 or later, and runs the engine: trtexec is in no wheel.

    python trtexec_line.py JOB.json

needs the bindings, their libraries and libcudart, and no numpy, so that the Python that the bindings are for may be another one
than onnxgraft's. The job: {"onnx", "line": trtexec's arguments, "feeds": [{input: file of raw bytes}], "out": folder, "level":
builder's optimization level, "runs": how many are timed}. Writes out/N/OUTPUT.bin for each of the feeds, and out/result.json:
the tensors of the engine, seconds of the build, milliseconds of a run (median, 99th percentile) as it is enqueued and under a
CUDA graph, the milliseconds of each layer, and NVIDIA's words on what failed.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt as trt

WARM, PROFILED = 20, 20
TO_DEVICE, TO_HOST = 1, 2
BYTES = {"FLOAT": 4, "HALF": 2, "INT8": 1, "INT32": 4, "BOOL": 1, "UINT8": 1, "INT64": 8, "BF16": 2}
NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "BOOL": "bool", "UINT8": "uint8",
         "INT64": "int64"}  # fmt: skip


class Words(trt.ILogger):  # type: ignore[misc]
    """NVIDIA's errors and warnings."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []

    def log(self, severity: Any, words: str) -> None:
        """Called by TensorRT."""
        if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
            self.lines.append(f"{str(severity).rpartition('.')[2]}: {words}"[:700])


class Layers(trt.IProfiler):  # type: ignore[misc]
    """Milliseconds of each layer, of all runs."""

    def __init__(self) -> None:
        trt.IProfiler.__init__(self)
        self.sums: dict[str, float] = {}

    def report_layer_time(self, name: str, milliseconds: float) -> None:
        """Called by TensorRT."""
        self.sums[name] = self.sums.get(name, 0.0) + milliseconds


class Cuda:
    """The few calls of CUDA's runtime that this needs. Raises RuntimeError with the call's name and CUDA's number."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ.get("CUDART") or ctypes.util.find_library("cudart") or "libcudart.so")

    def __getattr__(self, name: str) -> Callable[..., None]:
        call = getattr(self._library, name)

        def checked(*arguments: Any) -> None:
            code = call(*arguments)
            if code:
                raise RuntimeError(f"{name}: CUDA error {code}")

        return checked


def build(job: dict[str, Any], words: Words) -> tuple[bytes, dict[str, Any]]:
    """The engine of a job. Raises RuntimeError with NVIDIA's words."""
    flags = dict(argument.lstrip("-").partition("=")[::2] for argument in job["line"] if argument.startswith("--"))
    builder = trt.Builder(words)
    if "stronglyTyped" in flags:
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    else:
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, words)
    if not parser.parse_from_file(job["onnx"]):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise RuntimeError("; ".join(f"node {error.node()}: {error.desc()}" for error in errors))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    for flag, member in (("fp16", "FP16"), ("int8", "INT8")):
        if flag in flags:
            config.set_flag(getattr(trt.BuilderFlag, member))
    if flags.get("precisionConstraints") == "obey":
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    wanted = dict(pair.rsplit(":", 1) for pair in flags.get("layerPrecisions", "").split(",") if pair)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    for layer in layers:
        if layer.name in wanted:
            layer.precision = {"fp32": trt.float32, "fp16": trt.float16, "int8": trt.int8}[wanted[layer.name]]
    if "level" in job:
        config.builder_optimization_level = job["level"]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    own = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)  # cuDNN and cuBLAS may be absent
    config.set_tactic_sources(sum(1 << int(source) for source in own))
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("the builder gives no engine")
    seconds, lost = round(time.perf_counter() - started, 1), sorted(set(wanted) - {layer.name for layer in layers})
    return bytes(memoryview(plan)), {"build_s": seconds, "layers": len(layers), "not_found": lost}


class Engine:
    """An engine with its memory on the GPU."""

    def __init__(self, plan: bytes, words: Words) -> None:
        self._cuda = Cuda()
        self._engine = trt.Runtime(words).deserialize_cuda_engine(plan)
        if self._engine is None:
            raise RuntimeError("the engine does not load")
        self.context, self._stream = self._engine.create_execution_context(), ctypes.c_void_p()
        self._cuda.cudaStreamCreate(ctypes.byref(self._stream))
        self._at: dict[str, tuple[ctypes.c_void_p, int]] = {}
        self.tensors: dict[str, tuple[str, list[int], bool]] = {}
        for name in (self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)):
            kind, shape = str(self._engine.get_tensor_dtype(name)).rpartition(".")[2], list(self._engine.get_tensor_shape(name))
            size, pointer = BYTES[kind], ctypes.c_void_p()
            for side in shape:
                size *= side
            self._cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(max(size, 256)))
            self.context.set_tensor_address(name, pointer.value)
            self._at[name] = pointer, size
            self.tensors[name] = NUMPY[kind], shape, self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT

    def feed(self, feeds: dict[str, str]) -> None:
        """Copy the inputs. Raises RuntimeError where one has another size than the engine's."""
        for name in (n for n, (_, _, taken) in self.tensors.items() if taken):
            data, (pointer, size) = Path(feeds[name]).read_bytes(), self._at[name]
            if len(data) != size:
                raise RuntimeError(f"{name}: {len(data)} bytes where the engine takes {size}")
            self._cuda.cudaMemcpy(pointer, data, ctypes.c_size_t(size), TO_DEVICE)

    def enqueue(self) -> None:
        """Start one run."""
        if not self.context.execute_async_v3(self._stream.value):
            raise RuntimeError("the engine does not run")

    def run(self) -> None:
        """One run, to its end."""
        self.enqueue()
        self._cuda.cudaStreamSynchronize(self._stream)

    def write(self, folder: Path) -> None:
        """The outputs, one file each."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (n for n, (_, _, taken) in self.tensors.items() if not taken):
            pointer, size = self._at[name]
            held = ctypes.create_string_buffer(size)
            self._cuda.cudaMemcpy(held, pointer, ctypes.c_size_t(size), TO_HOST)
            (folder / (name.replace("/", "~") + ".bin")).write_bytes(held.raw)

    def captured(self) -> Callable[[], None]:
        """A run under a CUDA graph. Raises RuntimeError where it cannot be captured, as a Loop whose length depends on data."""
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self.run()
        self._cuda.cudaStreamBeginCapture(self._stream, 2)
        taken = self.context.execute_async_v3(self._stream.value)
        self._cuda.cudaStreamEndCapture(self._stream, ctypes.byref(graph))
        if not taken:
            raise RuntimeError("the engine cannot be captured")
        self._cuda.cudaGraphInstantiate(ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
        return lambda: self._cuda.cudaGraphLaunch(ready, self._stream)

    def milliseconds(self, start: Callable[[], None], runs: int) -> dict[str, float]:
        """Median and 99th percentile of so many runs, each between two events."""
        first, last, found = ctypes.c_void_p(), ctypes.c_void_p(), []
        self._cuda.cudaEventCreate(ctypes.byref(first))
        self._cuda.cudaEventCreate(ctypes.byref(last))
        for number in range(WARM + runs):
            self._cuda.cudaEventRecord(first, self._stream)
            start()
            self._cuda.cudaEventRecord(last, self._stream)
            self._cuda.cudaEventSynchronize(last)
            taken = ctypes.c_float()
            self._cuda.cudaEventElapsedTime(ctypes.byref(taken), first, last)
            found += [taken.value] if number >= WARM else []
        found.sort()
        return {"median": found[len(found) // 2], "p99": found[min(len(found) - 1, len(found) * 99 // 100)]}


def times(plan: bytes, job: dict[str, Any], words: Words) -> dict[str, Any]:
    """What a run takes, and each layer of it."""
    engine = Engine(plan, words)
    engine.feed(job["feeds"][0])
    result: dict[str, Any] = {"enqueued": engine.milliseconds(engine.enqueue, job["runs"])}
    try:
        result["graph"] = engine.milliseconds(engine.captured(), job["runs"])
    except RuntimeError as error:
        result["graph"] = str(error)
    engine = Engine(plan, words)  # a context that could not be captured may be of no more use
    engine.feed(job["feeds"][0])
    engine.run()
    layers = Layers()
    engine.context.profiler = layers
    for _ in range(PROFILED):
        engine.run()
    result["layer_ms"] = {name: total / PROFILED for name, total in layers.sums.items()}
    return result


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Build, run, time."""
    words, result = Words(), {"tensorrt": trt.__version__, "ok": False}
    try:
        trt.init_libnvinfer_plugins(words, "")
        plan, told = build(job, words)
        engine = Engine(plan, words)
        result |= {**told, "tensors": engine.tensors}
        for number, feeds in enumerate(job["feeds"]):
            engine.feed(feeds)
            engine.run()
            engine.write(Path(job["out"]) / str(number))
        result |= times(plan, job, words) if job.get("runs") else {}
        result["ok"] = True
    except (RuntimeError, TypeError, OSError) as error:  # TypeError: the builder that TensorRT does not make without a GPU
        result["error"] = str(error)
    return {**result, "words": words.lines[-25:]}


if __name__ == "__main__":
    task = json.loads(Path(sys.argv[1]).read_text())
    Path(task["out"]).mkdir(parents=True, exist_ok=True)
    (Path(task["out"]) / "result.json").write_text(json.dumps(work(task)))
