"""Times an engine as trtexec does: many runs one after the other, each between two events of its stream.

Nothing here has been executed on a GPU; the calls are those that NVIDIA documents for CUDA 11.4 to 13.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from onnxgraft.errors import OnnxgraftError, TargetError
from onnxgraft.targets.trt.engine_runner import EngineRunner

WARM_UP, LEAST = 0.2, 10  # seconds before anything counts, as trtexec has it; counted runs at least
_THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal
CUDA = (
    "cudaEventCreate", "cudaEventRecord", "cudaEventSynchronize", "cudaEventElapsedTime", "cudaEventDestroy",
    "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags", "cudaGraphLaunch",
    "cudaGraphExecDestroy", "cudaGraphDestroy", "cudaHostRegister", "cudaHostUnregister", "cudaGetErrorString",
)  # fmt: skip
"""Every function of the CUDA runtime that is called here."""


class _Cuda:
    """The runtime that polygraphy loaded, its errors as TargetError."""

    def __init__(self) -> None:
        from polygraphy.cuda import wrapper

        self._library = wrapper().handle
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def __call__(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            self._library.cudaGetLastError()
            said = self._library.cudaGetErrorString(ctypes.c_int(status))
            raise TargetError(f"{name} failed: {said.decode(errors='replace') if said else status}")

    def new(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """What a function writes through its first argument."""
        handle = ctypes.c_void_p()
        self(name, ctypes.byref(handle), *arguments)
        return handle


def times(runner: EngineRunner, feeds: Mapping[str, Any], seconds: float = 3.0) -> tuple[dict[str, list[float]], list[str]]:
    """Milliseconds of each run, by how it was run, and notes on what could not be.

    "engine": enqueued as it is; "graph": as a CUDA graph; "copies": with its inputs copied in and its outputs copied out, in
    page-locked memory; "graph and copies": both.

    Args:
        runner: a loaded engine.
        feeds: its inputs.
        seconds: how long each of them is run.

    Raises:
        TargetError: the engine fails, or the CUDA runtime says no.
    """
    cuda = _Cuda()
    stream = ctypes.c_void_p(runner.stream.ptr)
    inputs, outputs = runner.host_arrays(feeds)
    runner.upload(inputs)
    found, notes = {}, []
    with _pinned(cuda, [*inputs.values(), *outputs.values()]):

        def with_copies(run: Callable[[], None]) -> Callable[[], None]:
            def whole() -> None:
                runner.upload(inputs)
                run()
                runner.download(outputs)

            return whole

        found["engine"] = _measured(cuda, stream, runner.enqueue, seconds)
        found["copies"] = _measured(cuda, stream, with_copies(runner.enqueue), seconds)
        try:
            with _captured(cuda, stream, runner.enqueue) as launch:
                found["graph"] = _measured(cuda, stream, launch, seconds)
                found["graph and copies"] = _measured(cuda, stream, with_copies(launch), seconds)
        except OnnxgraftError as error:
            notes.append(f"no CUDA graph: {error}")
    return found, notes


def _measured(cuda: _Cuda, stream: ctypes.c_void_p, run: Callable[[], None], seconds: float) -> list[float]:
    """Milliseconds of each run. A host that enqueues slower than the GPU runs shows in them, as it does in service."""
    start, end = cuda.new("cudaEventCreate"), cuda.new("cudaEventCreate")
    elapsed = ctypes.c_float()
    try:
        _for(WARM_UP, 1, lambda: _one(cuda, stream, run, start, end))
        milliseconds = []

        def counted() -> None:
            _one(cuda, stream, run, start, end)
            cuda("cudaEventElapsedTime", ctypes.byref(elapsed), start, end)
            milliseconds.append(float(elapsed.value))

        _for(seconds, LEAST, counted)
        return milliseconds
    finally:
        cuda("cudaEventDestroy", start)
        cuda("cudaEventDestroy", end)


def _one(cuda: _Cuda, stream: ctypes.c_void_p, run: Callable[[], None], start: ctypes.c_void_p, end: ctypes.c_void_p) -> None:
    cuda("cudaEventRecord", start, stream)
    run()
    cuda("cudaEventRecord", end, stream)
    cuda("cudaEventSynchronize", end)


def _for(seconds: float, least: int, work: Callable[[], None]) -> None:
    until, count = time.perf_counter() + seconds, 0
    while count < least or time.perf_counter() < until:
        work()
        count += 1


@contextmanager
def _captured(cuda: _Cuda, stream: ctypes.c_void_p, run: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """What launches `run` as a CUDA graph. Raises TargetError where it cannot be one: a loop whose end the GPU decides."""
    cuda("cudaStreamBeginCapture", stream, ctypes.c_int(_THREAD_LOCAL))
    graph, failure = ctypes.c_void_p(), None
    try:
        run()
    except OnnxgraftError as error:
        failure = error
    try:
        cuda("cudaStreamEndCapture", stream, ctypes.byref(graph))  # a capture that went wrong must end too
    except TargetError as error:
        failure = failure or error
    if failure is not None:
        raise failure
    made = cuda.new("cudaGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
    try:
        yield lambda: cuda("cudaGraphLaunch", made, stream)
    finally:
        cuda("cudaGraphExecDestroy", made)
        cuda("cudaGraphDestroy", graph)


@contextmanager
def _pinned(cuda: _Cuda, arrays: list[Any]) -> Iterator[None]:
    """Page-lock arrays, without which a copy waits for the host."""
    locked = []
    try:
        for array in arrays:
            if array.nbytes:
                cuda("cudaHostRegister", ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), ctypes.c_uint(0))
                locked.append(array)
        yield
    finally:
        for array in locked:
            cuda("cudaHostUnregister", ctypes.c_void_p(array.ctypes.data))
