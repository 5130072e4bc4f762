"""What the nodes of a part did on the probes that it was held on: of what none of them reached, nothing is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.traverse import scalar, value

_COMPARING = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"})
_BOUNDING = frozenset({"Clip", "Min", "Max"})
_BENDING = frozenset({"Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Abs", "Sign", "HardSigmoid", "ThresholdedRelu"})
_WHOLE = 2**30  # an end of a Slice beyond this takes all
_SAME = 1e-6


@dataclass
class Act:
    """Something that a node may do to some values and not to others.

    node: that may do it. what: in words. number: the constant that decides, or None. read: the tensors that tell. done:
    whether it happened on a probe.
    """

    node: gs.Node
    what: str
    number: float | None
    read: tuple[gs.Tensor, ...]
    done: bool = False

    @property
    def kind(self) -> tuple[str, str, float | None]:
        return self.node.op, self.what, self.number


@dataclass
class Evidence:
    """The acts of a part's nodes over all its probes.

    Attributes:
        acts: of every node that decides by a constant.
    """

    acts: list[Act] = field(default_factory=list)

    def watch(self, nodes: Sequence[gs.Node]) -> list[gs.Tensor]:
        """Look at these nodes; returns the tensors whose values `saw` wants."""
        if not self.acts:
            self.acts = [act for node in nodes for act in _acts_of(node)]
        return self.wanted()

    def wanted(self) -> list[gs.Tensor]:
        """The tensors that tell of what was not seen yet."""
        return list({t.name: t for act in self.acts if not act.done for t in act.read}.values())

    def saw(self, values: Mapping[str, np.ndarray]) -> None:
        """Take the values of one probe, by tensor name, each of its tensor's shape."""
        for act in self.acts:
            if not act.done and all(t.name in values for t in act.read):
                act.done = _happened(act, [values[t.name] for t in act.read])

    def unreached(self, explained: Iterable[float]) -> list[Act]:
        """What no probe reached, and whose constant is none of `explained`, which a spec names."""
        known = list(explained)
        seen = {act.kind for act in self.acts if act.done}  # of another level: small ones have few boxes to show it on
        return [act for act in self.acts if not act.done and act.kind not in seen
                and not (act.number is not None and _is_one_of(act.number, known))]  # fmt: skip


def _is_one_of(number: float, known: Sequence[float]) -> bool:
    return any(math.isclose(number, k, rel_tol=_SAME, abs_tol=_SAME) for k in known)


def _acts_of(node: gs.Node) -> list[Act]:
    if node.op in _COMPARING:
        number = next((n for t in node.inputs if (n := scalar(t)) is not None), None)
        if number is None:
            return []
        return [Act(node, f"holds ({word})", number, (node.outputs[0],)) for word in ("true", "false")]
    if node.op in _BOUNDING:
        bounds = node.inputs[1:3] if node.op == "Clip" else [t for t in node.inputs if value(t) is not None]
        source = next((t for t in node.inputs if value(t) is None), None)
        numbers = [(t, n) for t in bounds if (n := scalar(t)) is not None and abs(n) < _WHOLE]
        whole = source is None or (source.dtype is not None and np.dtype(source.dtype).kind != "f")
        if source is None or (node.op != "Clip" and whole):
            return []
        return [Act(node, f"bounds by {n:.6g}", n, (source, node.outputs[0])) for _, n in numbers]
    if node.op in _BENDING:
        return [Act(node, "bends", None, (node.inputs[0], node.outputs[0]))]
    return []


def _happened(act: Act, values: Sequence[np.ndarray]) -> bool:
    if act.what.endswith("(true)"):
        return bool(values[0].any())
    if act.what.endswith("(false)"):
        return bool((~values[0].astype(bool)).any())
    if act.number is not None:
        before, after = values
        return before.shape != after.shape or bool(np.any((after == np.asarray(act.number, after.dtype)) & (before != after)))
    before, after = values
    return bool(np.any(before != after))
