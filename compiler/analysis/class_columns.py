"""Which columns of the class scores a box head compares."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph


def first_class(graph: Graph, compared: gs.Node, final: gs.Tensor, proposals: gs.Tensor, classes: int) -> int:
    """The first of the columns [1, C + 1] that are compared: 0 where the background is the last, 1 where it comes first.

    Raises:
        Refusal: other columns are left out, or something else than class scores is compared.
    """
    columns = np.arange(classes + 1, dtype=np.float32)[None]
    feeds = {final.name: columns, proposals.name: np.array([[1, 1, 9, 9]], np.float32)}
    try:
        taken = evaluate(graph, [compared.inputs[0]], feeds)[0].reshape(-1)
    except Refusal as refusal:
        raise Refusal(f"what is compared here are no class scores: {refusal}", compared.name) from refusal
    for first in (0, 1):
        if np.array_equal(taken, columns[0, first : first + classes]):
            return first
    raise Refusal(f"the columns {taken[:8].astype(int).tolist()} of {classes + 1} class scores are compared, where the last "
                  "one (detectron2) or the first one (torchvision) is the background", compared.name)  # fmt: skip
