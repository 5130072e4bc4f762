"""What a self-test found, and the file in which it is kept from row to row."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.files import parsed, plain, read_json, write_json

FILE = "selftest.json"
State = Literal["same", "measured", "DIFFERS", "BROKEN", "not run", "not built"]
_RUNS = ("graph", "engine", "copies")  # what a figure is taken from, the best first


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run: median, 99th percentile (the least that 99 % of the runs do not exceed), and how many ran."""

    median: float
    p99: float
    runs: int

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        p99 = float(np.percentile(np.asarray(milliseconds), 99, method="inverted_cdf"))
        return cls(statistics.median(milliseconds), p99, len(milliseconds))


@dataclass(frozen=True)
class Measured:
    """What the process that ran a build tells.

    Attributes:
        ran: what ran.
        pictures: how many had stored answers to compare with.
        share: of PyTorch's detections, how many were found again within the tolerance.
        words: the comparison in words, of the worst picture.
        same: whether every picture is within the tolerance.
        latencies: by how it was run; see `targets.trt.timing.times`. ONNX Runtime has "copies" alone, as it copies nothing.
        notes: what could not be measured.
    """

    ran: str
    pictures: int
    share: float
    words: str
    same: bool
    latencies: dict[str, Latency] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Latency | None:
        """Without copies where that was measured, as a CUDA graph where it can be one."""
        return next((self.latencies[how] for how in _RUNS if how in self.latencies), None)


@dataclass(frozen=True)
class Result:
    """One row.

    Attributes:
        key: of the row.
        made_of: what it depends on (versions, the GPU, the model): a row of other things is tested again.
        state: "same": within the tolerance; "measured": ran, and nothing is asked of how close it is; "DIFFERS"; "BROKEN": it
            failed where it should not; "not run" and "not built": this machine cannot.
        reason: why it was not built or not run, or how it failed.
        build_seconds: from the file to the engine.
        engine_mib: of the engine; 0 without one.
        measured: None where nothing ran.
        floor_ms: the least that the GPU can take for it; None where the GPU is not known.
        seconds: of all.
    """

    key: str
    made_of: str
    state: State
    reason: str = ""
    build_seconds: float = 0.0
    engine_mib: float = 0.0
    measured: Measured | None = None
    floor_ms: float | None = None
    seconds: float = 0.0

    @property
    def floor_share(self) -> float | None:
        """The share of the floor that it reaches: 1 is as fast as the GPU can be."""
        best = self.measured.best if self.measured is not None else None
        return None if best is None or self.floor_ms is None or not best.median else self.floor_ms / best.median

    @property
    def bad(self) -> bool:
        """Whether it says that something is wrong."""
        return self.state in ("DIFFERS", "BROKEN")


@dataclass(frozen=True)
class Record:
    """The file: the machine (what doctor finds, as JSON), and a result for each row in the order in which they were tested."""

    machine: dict[str, Any]
    rows: tuple[Result, ...] = ()

    def write(self, folder: Path) -> None:
        """Raises InputError."""
        write_json(folder / FILE, plain(self), indent=1)

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """What an earlier self-test left; None without one. Raises InputError for a file that is none."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            return parsed(cls, read_json(path, "record of a self-test"), str(path))
        except InputError as error:
            raise InputError(f"{error}; give another folder (-o), or remove the file") from error
