"""Which layers to keep in fp16, so that AP falls by no more than a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError
from onnxgraft.evaluation import coco
from onnxgraft.evaluation.truth import Truth
from onnxgraft.passes.quantize import weight_axis
from onnxgraft.quantization.sensitivity import Damage, Progress, Variants


@dataclass(frozen=True)
class Choice:
    """What an accuracy budget came to: the layers kept in fp16, the AP with them, without them, and in fp32.

    `cost` is the share of the network's multiplications that the kept layers do; `images` judged it.
    """

    budget: float
    images: int
    keep: str
    layers: int
    cost: float
    reference: tuple[float, float]
    all_int8: tuple[float, float]
    kept: tuple[float, float]

    @property
    def met(self) -> bool:
        return _loss(self.reference, self.kept) <= self.budget


def choose(
    variants: Variants,
    ranking: Sequence[Damage],
    budget: float,
    truth: Truth,
    progress: Progress = lambda done, total, name: None,
) -> Choice:
    """The fewest layers, taken from the top of the ranking, whose fp16 keeps box and mask AP within `budget` of fp32.

    AP does not fall evenly, so small sets are tried first: 1, 2, 4 layers and so on, then those between the last two.
    """
    order = [row.layer for row in ranking]
    tried: dict[int, tuple[float, float]] = {}

    def ap(kept: int) -> tuple[float, float]:
        if kept not in tried:
            progress(len(tried), 2 * len(order).bit_length() + 2, f"{kept} layers kept")
            tried[kept] = _ap(variants, order[kept:], truth)
        return tried[kept]

    reference, everything = ap(len(order)), ap(0)
    low, high = 0, 0 if _loss(reference, everything) <= budget else min(1, len(order))
    while high < len(order) and high > low and _loss(reference, ap(high)) > budget:
        low, high = high, min(2 * high, len(order))  # all of them always meet it
    while high - low > 1:
        middle = (low + high) // 2
        if _loss(reference, ap(middle)) <= budget:
            high = middle
        else:
            low = middle
    keep = "+".join(sorted(order[:high])) or "none"
    work = {name: multiplications(node) for name, node in variants.layers.items()}
    cost = sum(work[name] for name in order[:high]) / max(sum(work.values()), 1)
    return Choice(budget, len(truth.ids), keep, high, cost, reference, everything, ap(high))


def multiplications(node: gs.Node) -> int:
    """How many products a layer computes on one batch. Shapes must be known."""
    weights, channels = math.prod(node.inputs[1].shape), node.inputs[1].shape[weight_axis(node)]
    if node.op == "ConvTranspose":
        return int(weights * math.prod(node.inputs[0].shape) // node.inputs[0].shape[1])
    return int(weights // channels * math.prod(node.outputs[0].shape))


def _loss(reference: tuple[float, float], found: tuple[float, float]) -> float:
    return max(r - f for r, f in zip(reference, found, strict=True))


def _ap(variants: Variants, quantized: Sequence[str], truth: Truth) -> tuple[float, float]:
    detect = variants.detector(quantized)
    pictures = ((i, truth.load(i)) for i in truth.ids)
    report = coco.evaluate(truth.annotations, {i: variants.in_picture(detect(p), p) for i, p in pictures})
    box = report["box"]["AP"]
    if box is None:
        raise InputError("the annotations hold no objects: AP cannot be measured")
    return float(box), float(report.get("mask", {}).get("AP") or box)
