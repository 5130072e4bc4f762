"""Runs an engine on a GPU.

This needs an NVIDIA GPU that the engine was built for. On machines without one only the refusals
are tested; the way through the GPU follows NVIDIA's documented calls and has not been executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.errors import InputError, TargetError
from onnxgraft.targets.base import Runner
from onnxgraft.targets.feeds import checked_feeds
from onnxgraft.targets.trt.dialect import Dialect
from onnxgraft.targets.trt.messages import collected, logger_of, tidy
from onnxgraft.targets.trt.trial import try_engine


class EngineRunner(Runner):
    """Deserializes an engine and runs it: NumPy arrays in, NumPy arrays out.

    Device memory and copies come from polygraphy.cuda, which loads libcudart. All shapes of a
    compiled graph are fixed, so buffers are made once. A process of its own loads the engine first.
    Raises TargetError without a GPU or libcudart or when the engine does not load here; InputError
    when the file is missing.
    """

    def __init__(self, dialect: Dialect, path: Path) -> None:
        trt = dialect.load()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"engine {path} cannot be read: {error.strerror or error}") from error
        try_engine(dialect, path)
        with collected(trt) as log:
            if dialect.registers_plugins:
                trt.init_libnvinfer_plugins(logger_of(trt), "")
            self._runtime = trt.Runtime(logger_of(trt))
            self._engine = self._runtime.deserialize_cuda_engine(data)
            if self._engine is None:
                why = tidy(log.errors[0]) if log.errors else "no reason given"
                raise TargetError(f"engine {path} does not load on this GPU: {why}")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {n: self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
        self.input_names = tuple(n for n in names if is_input[n])
        self.output_names = tuple(n for n in names if not is_input[n])
        self._dtypes = {n: np.dtype(trt.nptype(self._engine.get_tensor_dtype(n))) for n in names}
        self._shapes = {n: tuple(self._engine.get_tensor_shape(n)) for n in names}
        self._allocate()

    def _allocate(self) -> None:
        from polygraphy.cuda import DeviceArray, Stream
        from polygraphy.exception import PolygraphyException

        try:
            self._stream = Stream()
            self._buffers: dict[str, Any] = {
                n: DeviceArray(shape=self._shapes[n], dtype=self._dtypes[n]) for n in self._shapes
            }
        except PolygraphyException as error:
            raise TargetError(f"the GPU cannot be used: {tidy(str(error))}") from error
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.ptr)

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Copy the inputs to the GPU, run, copy all outputs back. Raises InputError for inputs that are not the engine's."""
        arrays, outputs = self.host_arrays(feeds)
        self.upload(arrays)
        self.enqueue()
        self.download(outputs)
        self._stream.synchronize()
        return outputs

    @property
    def stream(self) -> Any:
        """The CUDA stream on which everything happens, of polygraphy.cuda."""
        return self._stream

    def host_arrays(self, feeds: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """(inputs, outputs) as arrays of the engine's shapes and dtypes, for `upload` and `download`."""
        arrays = checked_feeds(feeds, {n: (self._shapes[n], self._dtypes[n]) for n in self.input_names})
        return arrays, {n: np.empty(self._shapes[n], self._dtypes[n]) for n in self.output_names}

    def upload(self, arrays: Mapping[str, Any]) -> None:
        """Start to copy the inputs to the GPU."""
        for name, array in arrays.items():
            self._buffers[name].copy_from(array, self._stream)

    def enqueue(self) -> None:
        """Start to run. Raises TargetError."""
        if not self._context.execute_async_v3(self._stream.ptr):
            raise TargetError("the engine failed to run")

    def download(self, arrays: Mapping[str, Any]) -> None:
        """Start to copy the outputs back into arrays that stay where they are."""
        for name, array in arrays.items():
            self._buffers[name].copy_to(array, self._stream)
