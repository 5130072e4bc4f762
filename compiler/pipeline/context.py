"""What passes share while one graph is compiled."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np

from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import OnnxgraftError
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import GraphIO
from onnxgraft.pipeline.values import DetectorValues
from onnxgraft.plugins.lowering import LoweringOptions


@dataclass(frozen=True)
class Ranges:
    """What calibration says of a graph's activations, and a source of itself for a second run over the same graph.

    Attributes:
        amax: by tensor name, the magnitude that the largest int8 level stands for; 0 where nothing is known.
        seen: by tensor name, the largest magnitude that any image had; empty where only scales are known.
        notes: sentences for the user.
    """

    amax: dict[str, float]
    seen: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def ranges(self, graph: Graph, ctx: Context, groups: list[list[str]]) -> Ranges:
        """Itself. Raises OnnxgraftError when it is asked for a tensor that it does not know."""
        missing = next((name for group in groups for name in group if name not in self.amax), None)
        if missing is not None:
            raise OnnxgraftError(f"the ranges of another run do not have tensor {missing!r}")
        return self


class RangeSource(Protocol):
    """What measures a graph's activations, or knows where they were measured. It changes neither graph nor context."""

    def ranges(self, graph: Graph, ctx: Context, groups: list[list[str]]) -> Ranges:
        """The ranges of the tensors named in `groups`; the tensors of a group share their amax."""
        ...


@dataclass
class Context:
    """What passes share while one graph is compiled.

    Attributes:
        facts: names of the facts that passes gave, or that held before the first one.
        values: names of the tensors that passes hand on.
        anchors: float32 [H*W*A, 4] per level, pixels of the canvas, once injected.
        statistics: counts of the pass that is running.
        replaced: for a tensor of the spec, the name of the one that took its place.
        lowering: options for the native form of a plugin node, by node name, where its place in the network decides.
        channel_order: what a sidecar says of the image, for graphs whose statistics do not tell.
        notes: sentences for the user, such as repairs.
        size_divisibility: the detector pads images to multiples of this many pixels; 32 where the graph does not say.
        held: whether the detector's parts were held against their formulas in this graph as it stands, here or in a run before.
        only_size: (height, width) of the one canvas that every image gets, where the graph says so.
        unknown_outputs: names of outputs that no analysis knows; the user let them stay.
        half: nodes that may be computed in fp16, where the target chooses types; None where the graph has them.
        kept_fp32: layers that must not be, where the target chooses types, by the names that it has for them; of each,
            whether everything that it gives is fp32.
        io: what the graph takes and gives, as the passes name it.
        range_source: where int8 ranges come from; None when nothing was given to calibrate with.
        ranges: what the range source said; None before any calibration.
    """

    facts: set[str] = field(default_factory=set)
    values: DetectorValues = field(default_factory=DetectorValues)
    anchors: list[np.ndarray] = field(default_factory=list)
    statistics: dict[str, int | float] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    lowering: dict[str, LoweringOptions] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    batch: int = 1
    held: bool = False
    size_divisibility: int = 32
    only_size: tuple[int, int] | None = None
    unknown_outputs: list[str] = field(default_factory=list)
    channel_order: str | None = None
    detector: DetectorSpec | None = None
    half: frozenset[str] | None = None
    kept_fp32: dict[str, bool] = field(default_factory=dict)
    io: GraphIO = field(default_factory=GraphIO)
    range_source: RangeSource | None = None
    ranges: Ranges | None = None

    def copy(self) -> Context:
        """A context of its own: nothing that is done with it is seen in this one. Arrays and the range source are shared."""
        shared = {id(part): part for part in (*self.anchors, self.range_source, self.ranges, self.detector)}
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**copy.deepcopy(held, shared))

    def count(self, what: str, amount: int | float = 1) -> None:
        """Add to a statistic of the running pass."""
        self.statistics[what] = self.statistics.get(what, 0) + amount

    def current(self, name: str) -> str:
        """The tensor that now stands for a tensor of the spec."""
        return self.replaced.get(name, name)

    def spec(self) -> DetectorSpec:
        """The recognised detector. Raises OnnxgraftError before fix-input has recognised one."""
        if self.detector is None:
            raise OnnxgraftError("no detector was recognised yet: the pass needs fix-input before it")
        return self.detector
