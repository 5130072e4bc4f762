"""What a builder tells of the engine that it built."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LayerInfo:
    """One layer of the engine, as the builder itself lists it.

    `kind` is the builder's layer type ("correlation" is a convolution, "kgen" a fused kernel made
    for this graph), the types are the builder's words: Float, Half, BFloat16, Int8, Int32, Bool...
    `onnx_nodes` are the nodes that were fused into the layer. `read_bytes` (constants included) and
    `written_bytes` are the whole tensors, also where a layer in a loop gathers from one.
    """

    name: str
    kind: str
    input_types: tuple[str, ...]
    constant_types: tuple[str, ...]
    output_types: tuple[str, ...]
    onnx_nodes: tuple[str, ...]
    read_bytes: int = 0
    written_bytes: int = 0

    @property
    def type(self) -> str:
        """The type the layer computes on: that of its first input, or of its output without one.

        A layer that quantizes counts under what it reads; one fused with a leading cast as well.
        Empty for layers that only synchronise streams.
        """
        return next(iter((*self.input_types, *self.output_types, *self.constant_types)), "")


@dataclass(frozen=True)
class EngineInfo:
    """What a build gave: sizes in bytes, times in seconds, and the engine's layers.

    `layers` is empty when the builder told nothing of them; `notes` then says why. `notes` also
    lists every option that the target took differently from what was asked.
    """

    target: str
    module: str
    engine_bytes: int
    parse_seconds: float
    build_seconds: float
    layers: tuple[LayerInfo, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def layer_types(self) -> dict[str, dict[str, int]]:
        """How many layers of each kind ended in which type: {"correlation": {"Int8": 61}, ...}."""
        counts: dict[str, Counter[str]] = {}
        for layer in self.layers:
            if layer.type:
                counts.setdefault(layer.kind, Counter())[layer.type] += 1
        return {kind: dict(sorted(counts[kind].items())) for kind in sorted(counts)}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file: the layers as counts, everything else as it is."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {
            "layers": len(self.layers),
            "layer_types": self.layer_types,
            "notes": list(self.notes),
        }
