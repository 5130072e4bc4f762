"""What a target is: the place a compiled graph is handed over to, and what can be asked of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxgraft.options import BuilderOptions
from onnxgraft.targets.engine_info import EngineInfo
from onnxgraft.targets.traits import TargetTraits


@dataclass(frozen=True)
class Wanted:
    """For which release of a target a graph was written.

    Attributes:
        release: its name, such as "8.6".
        precision: of the network, where the release's builder chooses types.
        kept_fp32: layers that it must compute in fp32; of each, whether everything that it gives is fp32.
    """

    release: str
    precision: str = "fp32"
    kept_fp32: Mapping[str, bool] = field(default_factory=dict)


class Target(ABC):
    """Where a compiled graph goes: what it accepts, whether it is here, and how it is built."""

    name: str
    traits: TargetTraits
    """What passes ask of it."""
    suffix: str = ".engine"
    """How the file that `build` writes is named; empty when it writes none."""

    @abstractmethod
    def available(self) -> str | None:
        """None when engines can be built here, or the reason why not, in one line."""

    @abstractmethod
    def can_run(self) -> str | None:
        """None when what `build` makes can be run here, or the reason why not, in one line."""

    @abstractmethod
    def version(self) -> str:
        """The module that builds and its version, or the module alone when it is missing."""

    @abstractmethod
    def build(
        self,
        model: Path,
        engine: Path,
        options: BuilderOptions | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> EngineInfo:
        """Turn the ONNX file into an engine file, which appears whole or not at all.

        `provenance` gives, for a node's name, the pass that made it; a refusal names it.
        Raises TargetError when the target refuses the graph or is not here, InputError when the
        engine or the timing cache cannot be written.
        """

    @contextmanager
    def building(
        self,
        model: Path,
        engine: Path,
        options: BuilderOptions | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> Iterator[Callable[[], EngineInfo]]:
        """Build beside what the `with` block does, where a target can: what it gives waits for the engine.

        Leaving the block early ends the build. Arguments and errors are those of `build`.
        """
        yield lambda: self.build(model, engine, options, provenance)

    @abstractmethod
    def runner(self, path: Path, threads: int | None = None) -> Runner:
        """Load what `build` made; raises TargetError with the reason where it cannot run."""

    @abstractmethod
    def trtexec_line(
        self, model: Path, engine: Path, options: BuilderOptions | None = None, weak: Wanted | None = None
    ) -> str | None:
        """The command of NVIDIA's own tool that builds the same engine, or None.

        `weak`: the release that it is for, and what its builder must keep, where another one than the installed is meant.
        Raises InputError for an option that the release lacks.
        """


class Runner(ABC):
    """A loaded model: named arrays in, named arrays out."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    @abstractmethod
    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run once; NumPy arrays of the shapes and dtypes the model declares."""
