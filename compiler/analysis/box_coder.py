"""Reads a box coder off the graph: measures how boxes answer to deltas, then names the constants that explain it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxgraft.analysis.provenance import snap
from onnxgraft.detector.geometry import decode, decode_linear
from onnxgraft.detector.spec import BoxCoder
from onnxgraft.errors import Refusal

_COMPARED = 20_000  # boxes of a large level, chosen at random, that are compared in each of two ranges of deltas
_AROUND_CLAMP = (-0.05, 0.0, 0.05, 1.0, 30.0)  # where dw and dh are compared, from the clamp on
_SHARE = 2e-3  # of a box's size, by which its edges may be off there
_FAR_SHARE, _FAR = 0.2, 4.0  # of distances to sides, those beyond a few anchors, and the power of ten that they reach
Decode = Callable[[np.ndarray], np.ndarray]  # deltas [n, 4] -> boxes [n, 4]


def measure_coder(
    respond: Decode,
    reference: np.ndarray,
    constants: Sequence[float],
    node: str,
    tiny: tuple[Decode, np.ndarray] | None = None,
) -> BoxCoder:
    """The weights and the clamp of a decoder, measured and then explained by constants of the graph.

    Args:
        respond: runs the graph's decoder on deltas [n, 4].
        reference: the boxes that the deltas are relative to, [n, 4].
        constants: the scalar constants found in the decoder.
        node: named in refusals.
        tiny: decoder and boxes to find the clamp with, where large results would be clipped to the image.

    Raises:
        Refusal: the decoder is no Box2BoxTransform, or no constant explains what was measured.
    """
    n, size = len(reference), _extent(reference)[1]
    centre0, size0 = _extent(respond(np.zeros((n, 4), np.float32)))
    centre1, size1 = _extent(respond(np.full((n, 4), 0.5, np.float32)))
    with np.errstate(all="ignore"):
        shift = np.median(0.5 * size / (centre1 - centre0), axis=0)
        scale = np.median(0.5 / np.log(size1 / size0), axis=0)
    measured = [*shift, *scale]
    weights = [snap(float(m), constants) if np.isfinite(m) else None for m in measured]
    if any(w is None for w in weights):
        raise Refusal(f"box decoding answers to deltas as with weights {np.round(measured, 4)}, which no constant "
                      "of the graph explains: another box coder than Box2BoxTransform?", node)  # fmt: skip
    respond_tiny, boxes = tiny or (respond, reference)
    clamp = _measure_clamp(respond_tiny, boxes, max(w for w in weights if w), constants, node)
    coder = BoxCoder((_tidy(weights[0]), _tidy(weights[1]), _tidy(weights[2]), _tidy(weights[3])), clamp)
    if tiny is None:
        verify_coder(respond, reference, coder, node)
    else:
        _verify_apart((respond, reference), tiny, coder, node)
    return coder


def _measure_clamp(respond: Decode, boxes: np.ndarray, weight: float, constants: Sequence[float], node: str) -> float:
    huge = np.zeros((len(boxes), 4), np.float32)
    huge[:, 2:] = 40.0 * weight
    _, grown = _extent(respond(huge))
    with np.errstate(all="ignore"):
        measured = float(np.median(np.log(grown / _extent(boxes)[1])))
    clamp = snap(measured, constants, 1e-3)
    if clamp is None:
        raise Refusal(f"dw and dh are clamped near {measured:.4f}, which no constant of the graph explains", node)
    return clamp


def _extent(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres and sizes, float64 [n, 2] each."""
    boxes = boxes.astype(np.float64)
    return 0.5 * (boxes[:, 2:] + boxes[:, :2]), boxes[:, 2:] - boxes[:, :2]


def _tidy(number: float | None) -> float:
    return round(float(number or 0.0), 6)


def verify_coder(respond: Decode, reference: np.ndarray, coder: BoxCoder, node: str) -> None:
    """Hold a graph's decoder against Box2BoxTransform on random deltas: of all boxes, or of many where there are many.

    Args:
        respond: deltas float32 [n, 4] to boxes float32 [n, 4] x1, y1, x2, y2 in pixels.
        reference: the boxes [n, 4] that the deltas move.

    Raises:
        Refusal: they differ, for small deltas or around the clamp of dw or dh; names `node`.
    """
    if len(reference) <= 2 * _COMPARED:
        _verify_apart((respond, reference), (respond, reference), coder, node)
        return
    chosen = np.random.Generator(np.random.Philox(6)).permutation(len(reference))[: 2 * _COMPARED]
    near, around = np.split(chosen, 2)
    deltas = np.zeros(reference.shape, np.float32)
    deltas[near], deltas[around] = _near(len(near)), _around_clamp(len(around), coder)
    boxes = respond(deltas)
    _hold_near(boxes[near], deltas[near], reference[near], coder, node)
    _hold_around_clamp(boxes[around], deltas[around], reference[around], coder, node)


def _verify_apart(
    near: tuple[Decode, np.ndarray], around: tuple[Decode, np.ndarray], coder: BoxCoder, node: str
) -> None:
    """As `verify_coder`, in two runs: of all boxes [n, 4] of one decoder for small deltas, of another around the clamp."""
    (respond, boxes), (respond_there, boxes_there) = near, around
    small, clamped = _near(len(boxes)), _around_clamp(len(boxes_there), coder)
    _hold_near(respond(small), small, boxes, coder, node)
    _hold_around_clamp(respond_there(clamped), clamped, boxes_there, coder, node)


def _near(count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(7)).uniform(-1, 1, (count, 4)).astype(np.float32)


def _around_clamp(count: int, coder: BoxCoder) -> np.ndarray:
    """Deltas [count, 4] whose dw and dh are at the clamp, just below and beyond it."""
    rng = np.random.Generator(np.random.Philox(8))
    deltas = rng.uniform(-1, 1, (count, 4))
    deltas[:, 2:] = (coder.scale_clamp + rng.choice(_AROUND_CLAMP, (count, 2))) * np.array(coder.weights[2:])
    return deltas.astype(np.float32)


def _hold_near(boxes: np.ndarray, deltas: np.ndarray, reference: np.ndarray, coder: BoxCoder, node: str) -> None:
    error = np.abs(boxes - decode(reference, deltas, coder)).max()
    if not error < 2e-3 * max(1.0, float(np.abs(reference).max()) / 1000):
        raise Refusal(f"box decoding differs from Box2BoxTransform by {error:.3g} pixels", node)


def _hold_around_clamp(boxes: np.ndarray, deltas: np.ndarray, reference: np.ndarray, coder: BoxCoder, node: str) -> None:
    expected = decode(reference, deltas, coder)
    with np.errstate(all="ignore"):
        error = np.abs(boxes - expected) / np.tile(expected[:, 2:] - expected[:, :2], 2)
    for side, columns in (("dw", slice(0, None, 2)), ("dh", slice(1, None, 2))):
        worst = error[:, columns].max()
        if not worst < _SHARE:
            raise Refusal(f"{side} is clamped otherwise than at {coder.scale_clamp:.6g}, as elsewhere in this detector: "
                          f"beyond it edges of boxes are off by {worst:.3g} of their size", node)  # fmt: skip


def verify_linear_coder(respond: Decode, reference: np.ndarray, node: str) -> None:
    """As `verify_coder`, of Box2BoxTransformLinear: deltas [n, 4] are distances to the sides in sizes of the anchors [n, 4].

    Raises:
        Refusal: they differ; names `node`.
    """
    rng = np.random.Generator(np.random.Philox(7))
    near = rng.uniform(-1, 4, reference.shape)
    deltas = np.where(rng.random(reference.shape) < _FAR_SHARE, 10 ** rng.uniform(0, _FAR, reference.shape), near)
    deltas = deltas.astype(np.float32)
    expected = decode_linear(reference, deltas)
    error = np.abs(respond(deltas) - expected) / np.maximum(1.0, np.abs(expected) / 1000)
    if not error.max() < 2e-3 * max(1.0, float(np.abs(reference).max()) / 1000):
        raise Refusal(f"box decoding differs from Box2BoxTransformLinear in anchor sizes by {error.max():.3g} pixels", node)
