"""What a calibration found, as a file: statistics of every tensor, and what they are statistics of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxgraft.analysis.regions import find_regions
from onnxgraft.errors import InputError
from onnxgraft.files import read_json, write_json
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.value_text import value_text
from onnxgraft.pipeline.context import Context
from onnxgraft.quantization import methods
from onnxgraft.quantization.histogram import SMALLEST, Histogram
from onnxgraft.runtime.images import ResizeRule

FORMAT = "onnxgraft calibration 1"


@dataclass(frozen=True)
class Key:
    """What statistics belong to.

    Attributes:
        graph: a hash of the network: its layers with weights, their attributes, weights and tensors.
        preprocess: canvas, mean, std and resize rule.
    """

    graph: str
    preprocess: dict[str, Any]

    def difference(self, other: Key) -> str | None:
        """Why statistics of `other` do not serve for this key, or None."""
        if self.graph != other.graph:
            return "it was made for another network (other weights, layers or tensor names)"
        for name, value in self.preprocess.items():
            if other.preprocess.get(name) != value:
                return f"it was made with {name} {other.preprocess.get(name)}, this build has {value}"
        return None


@dataclass
class Calibration:
    """Statistics of a network's activations.

    Attributes:
        key: the network and preprocessing.
        pictures: (name, digest) of every picture that was seen.
        skipped: pictures that could not be read, with the reason.
        tensors: histogram by tensor name.
    """

    key: Key
    pictures: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    tensors: dict[str, Histogram] = field(default_factory=dict)

    def save(self, path: Path, level: int = SMALLEST) -> None:
        """Write as JSON, atomically, compressed as Histogram.to_dict says. Raises InputError where it cannot be written."""
        names = sorted(self.tensors)
        with ThreadPoolExecutor() as pool:  # zlib compresses without Python's lock
            held = pool.map(lambda name: self.tensors[name].to_dict(level), names)
            tensors = dict(zip(names, held, strict=True))
        data = {
            "format": FORMAT,
            "graph": self.key.graph,
            "preprocess": self.key.preprocess,
            "images": pictures_digest(self.pictures),
            "pictures": sorted(self.pictures),
            "skipped": sorted(self.skipped),
            "tensors": tensors,
        }
        write_json(path, data, indent=1)

    @staticmethod
    def load(path: Path) -> Calibration:
        """Read it back. Raises InputError, in one line, for a file that is missing, truncated or something else."""
        data = read_json(path, "calibration", "calibrate again")
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputError(f"{path}: no calibration of this version of onnxgraft; calibrate again")
        try:
            return Calibration(
                Key(str(data["graph"]), dict(data["preprocess"])),
                [(str(name), str(digest)) for name, digest in data["pictures"]],
                [str(line) for line in data["skipped"]],
                {str(name): Histogram.from_dict(held) for name, held in data["tensors"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{path}: damaged ({error}); calibrate again") from error

    def unusable(
        self, key: Key, names: Sequence[str], pictures: Sequence[tuple[str, str]] | None = None
    ) -> str | None:
        """Why these statistics cannot be used again, or None when they can.

        Args:
            key: the network and preprocessing that they are wanted for.
            names: the tensors that are wanted.
            pictures: (name, digest) of what they should be of, all of it; None takes any.
        """
        reason = key.difference(self.key)
        if reason is not None:
            return reason
        missing = [name for name in names if name not in self.tensors]
        if missing:
            return f"it lacks tensor {missing[0]!r}"
        if pictures is None:
            return None
        complete = len(self.pictures) + len(self.skipped) == len(pictures)
        if complete and set(self.pictures) <= set(pictures):
            return None
        return f"it was made from {len(self.pictures)} other images (digest {pictures_digest(self.pictures)})"

    def merge(self, other: Calibration) -> None:
        """Add another run's statistics, exactly. Raises InputError when both are not of one network, or share pictures."""
        reason = self.key.difference(other.key)
        if reason is not None:
            raise InputError(f"these calibrations cannot be merged: {reason}")
        twice = sorted(set(self.pictures) & set(other.pictures))
        if twice:
            raise InputError(f"these calibrations cannot be merged: both have seen {twice[0][0]!r}")
        if set(self.tensors) != set(other.tensors):
            raise InputError("these calibrations cannot be merged: they measured different tensors")
        for name, histogram in other.tensors.items():
            self.tensors[name].merge(histogram)
        self.pictures = sorted(self.pictures + other.pictures)
        self.skipped = sorted(self.skipped + other.skipped)


def merge_files(paths: Sequence[Path], output: Path) -> Calibration:
    """Merge calibration files into `output`. Raises InputError."""
    if not paths:
        raise InputError("--merge: give the calibration files to merge")
    merged = Calibration.load(paths[0])
    for path in paths[1:]:
        merged.merge(Calibration.load(path))
    merged.save(output)
    return merged


def group_ranges(calibration: Calibration, groups: list[list[str]], method: str, percentile: float) -> dict[str, float]:
    """Amax by tensor name, in the tensors' own units; tensors of a group share the one of their statistics together."""
    ranges: dict[str, float] = {}
    for group in groups:
        merged = Histogram()
        for name in group:
            merged.merge(calibration.tensors[name])
        ranges |= dict.fromkeys(group, methods.amax(merged, method, percentile))
    return ranges


def pictures_digest(pictures: Sequence[tuple[str, str]]) -> str:
    """A hash of a set of pictures."""
    return hashlib.sha256(json.dumps(sorted(pictures)).encode()).hexdigest()[:16]


def key_of(graph: Graph, ctx: Context, names: Sequence[str], rule: ResizeRule) -> Key:
    """The key of a graph as it stands before quantization; `names` are the tensors to measure, `rule` resizes pictures."""
    regions = find_regions(graph, ctx)
    state = hashlib.sha256()
    for name, node in regions.layers.items():
        constants = [value_text(t) for t in node.inputs if hasattr(t, "_values")]
        attributes = {k: str(v) for k, v in sorted(node.attrs.items())}
        state.update(f"{name} {node.op} {attributes} {constants}\n".encode())
    state.update("\n".join(sorted(names)).encode())
    image = ctx.spec().image
    preprocess = {
        "canvas": [image.height, image.width], "mean": list(image.mean), "std": list(image.std), "order": image.order,
        "shortest_edge": rule.shortest_edge, "longest_edge": rule.longest_edge,
    }  # fmt: skip
    return Key(state.hexdigest()[:32], preprocess)
