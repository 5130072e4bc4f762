"""The parts of a detector that rewrites replace, each cut out of the file's graph and of the compiled one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.ir.graph import Graph
from onnxgraft.proof.compare import BOX_PX, Outcome, Rows, compare_rows, compare_values
from onnxgraft.proof.cut import Arrays, Cut
from onnxgraft.proof.probes import Probe

Layout = Callable[[Sequence[Any], Sequence[int]], NDArray[np.generic]]


@dataclass(frozen=True)
class Port:
    """A tensor at which a part begins. role: its name in probes. file, build: its names in both graphs (None: that graph
    has none). lay: makes the build's array of the file's arrays of each image. shape: of the build's tensor."""

    role: str
    file: str | None
    build: str | None
    lay: Layout
    shape: tuple[int, ...] = ()


class Part(ABC):
    """A part on both sides.

    Attributes:
        name: what the user knows it by.
        probes: what it is fed, made when asked for.
        file, build: the cuts.
    """

    def __init__(
        self, name: str, graphs: tuple[Graph, Graph], ports: Sequence[Port], ends: tuple[Mapping[str, str], Mapping[str, str]],
        probes: Callable[[], Iterable[Probe]],
    ) -> None:  # fmt: skip
        self.name, self.probes = name, probes
        self._ports = ports
        self._file_ends, self._build_ends = ends
        file, build = graphs
        self.file = Cut(file, [p.file for p in ports if p.file], list(self._file_ends.values()))
        self.build = Cut(build, [p.build for p in ports if p.build], list(self._build_ends.values()))

    def of_file(self, probe: Probe) -> Arrays:
        """What the file's part gives for one image."""
        found = self.file({p.file: probe.feeds[p.role] for p in self._ports if p.file})
        return {role: found[name] for role, name in self._file_ends.items()}

    def feeds_of_build(self, probes: Sequence[Probe]) -> Arrays:
        """What the build's part is fed for one batch, by tensor."""
        return {p.build: p.lay([q.feeds.get(p.role) for q in probes], p.shape) for p in self._ports if p.build}

    def in_roles(self, found: Mapping[str, NDArray[Any]]) -> Arrays:
        """The results of the build's part, given by tensor, by role."""
        return {role: found[name] for role, name in self._build_ends.items()}

    def of_build(self, probes: Sequence[Probe]) -> Arrays:
        """What the build's part gives for one batch."""
        return self.in_roles(self.build(self.feeds_of_build(probes)))

    @abstractmethod
    def compare(self, probe: Probe, file: Arrays, build: Arrays, image: int, batch: int) -> Outcome:
        """One image of the batch against the file's own run of it."""


class Detected(Part):
    """Ends in detections: num_detections, boxes, scores and, where there are any, classes. Before the pass that makes them for
    all images, what the build has is the file's form, of the first image.

    scale: makes the build's boxes pixels. logits: the file gives logits where the build gives their probabilities. first: the
    file's number of the build's class 0.
    """

    scale: NDArray[np.float32] = np.ones(4, np.float32)
    logits = False
    first = 0

    def compare(self, probe: Probe, file: Arrays, build: Arrays, image: int, batch: int) -> Outcome:
        if "number" not in build:
            return Outcome() if image else compare_rows(_rows(file), _rows(build))
        n = int(build["number"].reshape(-1)[image])
        kinds = build["classes"][image, :n].astype(np.int64) if "classes" in build else None
        got = Rows(build["boxes"][image, :n] * self.scale, build["scores"][image, :n], kinds)
        expected = _rows(file)
        if self.logits and expected.scores is not None:
            expected = replace(expected, scores=(1 / (1 + np.exp(-expected.scores.astype(np.float64)))).astype(np.float32))
        if self.first and expected.classes is not None:
            expected = replace(expected, classes=expected.classes - self.first)
        return compare_rows(expected, got)


def _rows(arrays: Arrays) -> Rows:
    return Rows(arrays["boxes"].reshape(-1, 4), arrays["scores"], arrays.get("classes"))


class Proposed(Part):
    """Ends in proposals [N, P, 4] of which some are real; before they are made for all images, in those of the first."""

    def compare(self, probe: Probe, file: Arrays, build: Arrays, image: int, batch: int) -> Outcome:
        if "valid" not in build:
            return Outcome() if image else compare_rows(Rows(file["boxes"].reshape(-1, 4)), Rows(build["boxes"].reshape(-1, 4)))
        real = build["valid"][image]
        return compare_rows(Rows(file["boxes"].reshape(-1, 4)), Rows(build["boxes"][image][real]))


class Valued(Part):
    """Ends in a tensor with a row per box (`value`); rows of the build beyond the file's are of boxes that are not there."""

    limit = 1e-3

    def compare(self, probe: Probe, file: Arrays, build: Arrays, image: int, batch: int) -> Outcome:
        expected = np.asarray(file["value"], np.float32)
        each = build["value"].reshape(batch, -1, *expected.shape[1:])
        return compare_values(expected, each[image][: len(expected)], self.limit)


class Masked(Valued):
    """Ends in masks: the file's [D, 1, M, M], the build's [N, D, M, M]."""

    def compare(self, probe: Probe, file: Arrays, build: Arrays, image: int, batch: int) -> Outcome:
        return super().compare(probe, {"value": file["value"][:, 0]}, build, image, batch)


class Moved(Valued):
    """Ends in boxes, a row per box that went in."""

    def compare(self, probe: Probe, file: Arrays, build: Arrays, image: int, batch: int) -> Outcome:
        expected = np.asarray(file["value"], np.float32).reshape(-1, 4)
        largest = max(float(np.abs(expected).max(initial=0.0)), 1.0)
        return compare_values(expected, build["value"][image][: len(expected)], BOX_PX / largest)


def maps(arrays: Sequence[Any], shape: Sequence[int]) -> NDArray[np.generic]:
    """[1, C, H, W] of each image -> [N, C, H, W]."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def rows(arrays: Sequence[Any], shape: Sequence[int]) -> NDArray[np.generic]:
    """[R, ...] of each image -> [N * P, ...], rows that are not there zero."""
    each = shape[0] // len(arrays)
    return np.concatenate([_filled(a, each) for a in arrays])


def per_image(arrays: Sequence[Any], shape: Sequence[int]) -> NDArray[np.generic]:
    """[R, ...] of each image -> [N, P, ...], rows that are not there zero."""
    return np.stack([_filled(a, shape[1]) for a in arrays])


def valid(arrays: Sequence[Any], shape: Sequence[int]) -> NDArray[np.generic]:
    """bool [N, P]: which rows are there."""
    return np.stack([np.arange(shape[1]) < len(a) for a in arrays])


def classes(arrays: Sequence[Any], shape: Sequence[int], first: int = 0) -> NDArray[np.generic]:
    """int64 [D] of each image, counted from `first` -> int32 [N, D], counted from 0."""
    return np.stack([_filled(a - first, shape[1]) for a in arrays]).astype(np.int32)


def _filled(array: NDArray[np.generic], length: int) -> NDArray[np.generic]:
    full = np.zeros((length, *array.shape[1:]), array.dtype)
    full[: len(array)] = array[:length]
    return full

