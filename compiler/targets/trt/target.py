"""What the two TensorRT targets share."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from onnxgraft.errors import TargetError
from onnxgraft.options import BuilderOptions
from onnxgraft.targets.base import Runner, Target
from onnxgraft.targets.engine_info import EngineInfo
from onnxgraft.targets.trt.child import Building, Request
from onnxgraft.targets.trt.devices import no_gpu
from onnxgraft.targets.trt.dialect import Dialect
from onnxgraft.targets.trt.engine_runner import EngineRunner


class NvidiaTarget(Target):
    """A target whose engines come from one of NVIDIA's packages, named by its dialect."""

    dialect: ClassVar[Dialect]

    def can_run(self) -> str | None:
        return self.dialect.missing() or no_gpu()

    def version(self) -> str:
        return self.dialect.version()

    def build(
        self,
        model: Path,
        engine: Path,
        options: BuilderOptions | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> EngineInfo:
        with self.building(model, engine, options, provenance) as built:
            return built()

    @contextmanager
    def building(
        self,
        model: Path,
        engine: Path,
        options: BuilderOptions | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> Iterator[Callable[[], EngineInfo]]:
        """A child builds it: see `child`."""
        options = options or BuilderOptions()
        reason = self.dialect.missing()
        if reason:
            raise TargetError(reason)
        self.dialect.check(options)
        request = Request(
            self.dialect.module, self.name, Path(model), Path(engine), options, dict(provenance or {})
        )
        child = Building(self.dialect, request)
        try:
            yield child.wait
        finally:
            child.stop()

    def runner(self, path: Path, threads: int | None = None) -> Runner:
        """`threads` is of no use on a GPU and ignored."""
        reason = self.can_run()
        if reason:
            raise TargetError(f"engine {path} cannot run here: {reason}")
        return EngineRunner(self.dialect, Path(path))

    def trtexec_line(self, model: Path, engine: Path, options: BuilderOptions | None = None) -> str:
        words = [self.dialect.tool, f"--onnx={model}", f"--saveEngine={engine}"]
        words += [*self.dialect.tool_flags, "--skipInference"]
        words += (options or BuilderOptions()).trtexec_flags()
        return shlex.join(words)
