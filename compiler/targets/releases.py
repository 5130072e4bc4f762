"""Releases of TensorRT: what the ONNX parser, the plugins and the trtexec of each take. Plain data, read off NVIDIA's sources.

Operators and types are those of the lists that NVIDIA's parser brings along (onnx-tensorrt, docs/operators.md) in 8.5, 8.6,
10.0, 10.1, 10.15 and 11.1; a release between two of them has what the earlier one lists and the parser's changelog adds.
Opsets are those lists', and between them those of the ONNX that the parser was built with. trtexec's flags are those of its
sources in each release.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.files import read_json

NAMES = ("8.5", "8.6", *(f"10.{n}" for n in range(17)), *(f"11.{n}" for n in range(5)))
LISTED = ("8.5", "8.6", "10.0", "10.1", "10.15", "11.1")  # releases whose list of operators was read
NATIVE_INT64, STRONG, ONLY_STRONG = "9.0", "10.0", "11.0"
JETPACKS = {"5.1": "8.5", "6.0": "8.6", "6.1": "10.3", "6.2": "10.3", "7.0": "10.13"}
TOPK_LIMIT = 3840
_OPSETS = (("8.5", 17), ("10.0", 20), ("10.6", 22), ("10.11", 23), ("10.15", 24))
_FLAGS = {  # of trtexec, since when; those that are not here are older than 8.5
    "--skipInference": "8.6", "--builderOptimizationLevel": "8.6", "--versionCompatible": "8.6",
    "--hardwareCompatibilityLevel": "8.6", "--stronglyTyped": "10.0", "--stripWeights": "10.0",
    "--hardwareCompatibilityLevel=sameComputeCapability": "10.9",
}  # fmt: skip

Version = tuple[int, int]


def version_of(name: str) -> Version:
    """(major, minor) of "10.3". Raises ValueError for what is none."""
    major, minor = name.split(".")
    return int(major), int(minor)


@dataclass(frozen=True)
class Release:
    """A release, by its name such as "10.3"."""

    name: str

    def since(self, other: str) -> bool:
        """Whether it is `other` or a later one."""
        return version_of(self.name) >= version_of(other)

    @property
    def opset(self) -> int:
        """The newest opset of ONNX that its parser takes."""
        return int(_latest(_OPSETS, self))

    @property
    def weakly_typed(self) -> bool:
        """Whether its builder chooses precision, within what flags and constraints allow; later ones take it from the graph."""
        return not self.since(STRONG)

    @property
    def has_bf16(self) -> bool:
        return self.since("9.0")

    def types_of(self, op: str) -> frozenset[str]:
        """Types that its parser takes for an operator of ONNX, in NVIDIA's words ("FP32", "INT64"); empty for one it lacks."""
        return frozenset((_latest(_operators().get(op, ()), self) or "").split())

    def refuse_flag(self, flag: str, value: str = "") -> None:
        """Raises InputError where its trtexec lacks a flag, or a value of it."""
        since = _FLAGS.get(f"{flag}={value}", _FLAGS.get(flag, ""))
        if since and not self.since(since):
            words = f"{flag}={value}" if value else flag
            raise InputError(f"{words}: trtexec has it since {since}, not in {self.name}; leave it out")

    def has_flag(self, flag: str) -> bool:
        return self.since(_FLAGS.get(flag, NAMES[0]))


def release_of(text: str) -> Release:
    """The release that "10.3", "10.3.0.26" or "jetpack6.1" names. Raises InputError for another."""
    word = text.lower().removeprefix("v")
    if word.startswith("jetpack"):
        jetpack = ".".join(word.removeprefix("jetpack").split(".")[:2])
        if jetpack not in JETPACKS:
            raise InputError(f"--for {text}: give one of {', '.join(f'jetpack{name}' for name in JETPACKS)}, or a release")
        return Release(JETPACKS[jetpack])
    name = ".".join(word.split(".")[:2])
    if name not in NAMES:
        known = ", ".join([*NAMES, *(f"jetpack{jetpack}" for jetpack in JETPACKS)])
        raise InputError(f"--for {text!r}: give a release of TensorRT, one of {known}")
    return Release(name)


@functools.lru_cache(maxsize=1)
def _operators() -> dict[str, Any]:
    path = Path(str(files("onnxgraft.targets").joinpath("operators.json")))
    return dict(read_json(path, "table of operators"))


def _latest(steps: Any, release: Release) -> Any:
    """The last of [(since, value), ...] that a release has; None before the first."""
    return next((value for since, value in reversed(steps) if release.since(since)), None)
