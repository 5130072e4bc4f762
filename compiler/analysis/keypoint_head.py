"""Recognises the keypoint head: one heatmap per detection and keypoint."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import KeypointHead
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph


def analyse_keypoint_head(graph: Graph, heatmaps: gs.Tensor) -> KeypointHead:
    """The head whose upsampled logits are the output `heatmaps` [D, K, S, S].

    Raises:
        Refusal: heatmaps that are not square or not fixed in size.
    """
    shape = list(heatmaps.shape or [])
    if len(shape) != 4 or not all(isinstance(d, int) for d in shape[1:]) or shape[2] != shape[3]:
        raise Refusal(f"the keypoint heatmaps have shape {shape}, expected [D, keypoints, S, S]", heatmaps.name)
    return KeypointHead(keypoints=shape[1], resolution=shape[2], logits_tensor=heatmaps.name)
