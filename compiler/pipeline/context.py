"""What passes share while one graph is compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import OnnxgraftError
from onnxgraft.ir.graph import Graph


@dataclass
class Context:
    """What passes share while one graph is compiled.

    Attributes:
        facts: what holds of the graph by now ("static-input", "anchors", ...).
        sites: names of tensors that a pass left for later passes, by role ("proposals", "detection_boxes", ...).
        anchors: float32 [H*W*A, 4] per RPN level, once injected.
        statistics: counts of the pass that is running.
        replaced: for a tensor of the spec, the name of the one that took its place.
        lowering: options for the native form of a plugin node, by node name, where its place in the network decides.
        channel_order: what a sidecar says of the image, for graphs whose statistics do not tell.
        notes: sentences for the user, such as repairs.
        unknown_outputs: names of outputs that no analysis knows; the user let them stay.
        calibrate: measures the graph's tensors: groups of names that share a scale -> amax by name.
        ranges: largest magnitudes that calibration saw, by tensor name; None before any calibration.
    """

    facts: set[str] = field(default_factory=set)
    sites: dict[str, str] = field(default_factory=dict)
    anchors: list[np.ndarray] = field(default_factory=list)
    statistics: dict[str, int | float] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    lowering: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    batch: int = 1
    unknown_outputs: list[str] = field(default_factory=list)
    channel_order: str | None = None
    detector: DetectorSpec | None = None
    io: dict[str, Any] = field(default_factory=dict)
    calibrate: Callable[[Graph, Context, list[list[str]]], dict[str, float]] | None = None
    ranges: dict[str, float] | None = None

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
