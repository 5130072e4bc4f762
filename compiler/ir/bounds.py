"""What a model may ask for. A few bytes can describe more than any machine holds; a real detector stays far below."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal

OPTION = "--bounds"
_MIB = 1 << 20
_UNKNOWN_TYPE = 8  # bytes of an element whose type is not known


@dataclass(frozen=True)
class Bounds:
    """The most that a model may hold or ask for.

    Attributes:
        nodes: of all graphs and subgraphs together.
        depth: subgraphs in subgraphs.
        folded: bytes of the values that one evaluation ahead of time makes, for each byte of the model's file.
        least_folded: bytes that even the smallest file may fold; the anchors of a canvas of 2048x2048 take 284 MiB on the way.
    """

    nodes: int = 200_000
    depth: int = 16
    folded: int = 16
    least_folded: int = 1024 * _MIB

    @classmethod
    def times(cls, factor: int) -> Bounds:
        """The bounds, each of them `factor` times as wide."""
        usual = cls()
        return cls(usual.nodes * factor, usual.depth * factor, usual.folded * factor, usual.least_folded * factor)

    def bytes_to_fold(self, file_bytes: int) -> int:
        """What an evaluation of a model of so many bytes may make."""
        return max(self.folded * file_bytes, self.least_folded)

    def refuse_nodes(self, found: int, depth: int) -> None:
        """Raises Refusal when there are too many nodes or levels of subgraphs."""
        if found > self.nodes:
            raise Refusal(f"the model has more than {self.nodes} nodes; {OPTION} 2 allows twice as many")
        if depth > self.depth:
            raise Refusal(f"the model has subgraphs more than {self.depth} deep; {OPTION} 2 allows twice as many")


def bytes_of(tensors: Iterable[gs.Tensor]) -> int:
    """Bytes of the tensors whose shapes are known."""
    total = 0
    for tensor in tensors:
        shape = tensor.shape
        if shape is None or not all(isinstance(d, (int, np.integer)) for d in shape):
            continue
        total += elements(shape) * itemsize(tensor)
    return total


def elements(shape: Iterable[int]) -> int:
    """How many numbers a static shape holds, without overflow."""
    count = 1
    for side in shape:
        count *= max(int(side), 0)
    return count


def itemsize(tensor: gs.Tensor) -> int:
    """Bytes of an element; the widest where the type is not known."""
    dtype = tensor.dtype
    return _UNKNOWN_TYPE if dtype is None or isinstance(dtype, int) else int(np.dtype(dtype).itemsize)


def refuse_bytes(nodes: Iterable[gs.Node], limit: int) -> None:
    """Raises Refusal naming the largest, when evaluating the nodes would make more than `limit` bytes."""
    sizes = [(bytes_of(node.outputs), node.name) for node in nodes]
    total = sum(size for size, _ in sizes)
    if total > limit:
        most, name = max(sizes)
        raise Refusal(
            f"evaluating constants ahead of time would take {_told(total)}, {_told(most)} of them here; at most {_told(limit)} "
            f"are allowed for this file: {OPTION} {-(-total // limit)} allows it", name,
        )  # fmt: skip


def _told(size: int) -> str:
    return f"{size / _MIB:.0f} MiB" if size >= _MIB else f"{size} bytes"
