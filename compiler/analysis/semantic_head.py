"""Recognises the semantic segmentation head: class logits for every cell of the canvas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis import probes
from onnxgraft.analysis.measure import hold
from onnxgraft.detector.spec import ImageInput, SemanticHead
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import dims

_LIMIT = 2e-3  # positions in float32


def analyse_semantic_head(graph: Graph, logits: gs.Tensor, image: ImageInput) -> SemanticHead:
    """The head whose output is `logits` [1, C, H / stride, W / stride].

    Raises:
        Refusal: logits whose size is no whole part of the image.
    """
    _, classes, height, width = dims(logits, 4, "the semantic logits")
    stride = image.height // height
    if (height * stride, width * stride) != (image.height, image.width):
        raise Refusal(f"semantic logits of {height}x{width} are no whole part of {image.height}x{image.width}", logits.name)
    return SemanticHead(num_classes=classes, stride=stride, logits_tensor=logits.name)


def hold_semantic(graph: Graph, head: SemanticHead, output: str, image: tuple[int, int]) -> None:
    """Hold that what stands behind the logits is sem_seg_postprocess: it enlarges them to the image, bilinearly.

    Args:
        output: the tensor that the graph gives out: [C, H, W], or the logits themselves.
        image: height and width that they are enlarged to.

    Raises:
        Refusal: something else is done with them.
    """
    if output == head.logits_tensor:
        return
    logits = graph.tensor(head.logits_tensor)
    _, classes, height, width = dims(logits, 4, "the semantic logits")
    ramps = np.add(*np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij"))
    noise = probes.random(15).normal(0, 1, (classes, height, width))
    other = list(graph.tensor(output).shape or ())[-2:] != [image[0], image[1]]  # the size of the picture that was traced
    fed = ((ramps if other else noise) + 10 * np.arange(classes)[:, None, None])[None].astype(np.float32)
    expected = _enlarged(_enlarged(fed[0], image[0], 1), image[1], 2)

    def compare(results: Sequence[np.ndarray]) -> str | None:
        found = results[0].reshape(results[0].shape[-3:])
        if other:
            own = 10 * np.arange(classes)[:, None, None]
            grows = all(np.diff(found, axis=axis).min(initial=0) > -_LIMIT for axis in (1, 2))
            inside = len(found) == classes and bool(np.all((found > own - _LIMIT) & (found < own + 2 + _LIMIT)))
            return None if grows and inside else "other logits than those of the classes in their order and place"
        if found.shape != expected.shape:
            return f"{len(found)} maps of {classes} classes"
        error = float(np.abs(found - expected).max())
        return None if error < _LIMIT else f"the enlarged logits differ by {error:.3g}"

    hold(graph, [graph.tensor(output)], [({logits.name: fed}, compare)], "the semantic logits behind their head")


def _enlarged(maps: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Linear interpolation along an axis, half-pixel centres: F.interpolate(align_corners=False)."""
    old = maps.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(maps.ndim)])
    high = np.minimum(low + 1, old - 1)
    return np.asarray(maps.take(low, axis) * (1 - share) + maps.take(high, axis) * share)
