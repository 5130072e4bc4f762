"""What the two TensorRT targets share."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from onnxgraft.errors import InputError, TargetError
from onnxgraft.options import BuilderOptions
from onnxgraft.targets.base import Runner, Target, Wanted
from onnxgraft.targets.engine_info import EngineInfo
from onnxgraft.targets.releases import release_of
from onnxgraft.targets.trt.child import Building, Request
from onnxgraft.targets.trt.devices import no_gpu
from onnxgraft.targets.trt.dialect import Dialect
from onnxgraft.targets.trt.engine_runner import EngineRunner

LONGEST = 120_000  # characters of one argument; Linux allows 128 KiB


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

    def trtexec_line(
        self, model: Path, engine: Path, options: BuilderOptions | None = None, weak: Wanted | None = None
    ) -> str:
        words = [self.dialect.tool, f"--onnx={model}", f"--saveEngine={engine}"]
        flags = (options or BuilderOptions()).trtexec_flags()
        if weak is not None:
            return shlex.join([*words, *release_flags(weak, flags), *flags])
        return shlex.join([*words, *self.dialect.tool_flags, "--skipInference", *flags])


def release_flags(weak: Wanted, flags: list[str]) -> list[str]:
    """What trtexec of a release is told besides: not to run the engine, and how layers are typed.

    Raises InputError for one of `flags` that it lacks, and where there are more layers to name than a command line can hold.
    """
    release = release_of(weak.release)
    for flag in flags:
        release.refuse_flag(*flag.split("=", 1))
    words = ["--skipInference" if release.has_flag("--skipInference") else "--buildOnly"]
    if not release.weakly_typed:
        return ["--stronglyTyped", *words]
    if weak.precision != "fp32":
        layers = ",".join(f"{name}:fp32" for name in weak.kept_fp32)
        if len(layers) > LONGEST:
            raise InputError(f"{len(weak.kept_fp32)} layers must stay in fp32, more than one command line of trtexec "
                             f"{release.name} can name: give --precision fp32, or leave native forms out")
        words += ["--int8", "--fp16"] if weak.precision == "int8" else ["--fp16"]
        floats = ",".join(f"{name}:fp32" for name, all_floats in weak.kept_fp32.items() if all_floats)
        words += ["--precisionConstraints=obey", f"--layerPrecisions={layers}", f"--layerOutputTypes={floats}"]
    return words
