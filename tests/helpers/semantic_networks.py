"""A small semantic network."""

from __future__ import annotations

import numpy as np

from helpers.graphs import parse_graph
from onnxgraft.ir.graph import Graph

LOGITS = "float[1, 5, h, w] logits"


def network(outputs: str, tail: str = "", merge: str = "merged = Add(active, coarse)") -> Graph:
    random = np.random.default_rng(3)

    def weights(name: str, *shape: int) -> str:
        values = ", ".join(f"{v:.4f}" for v in random.standard_normal(int(np.prod(shape))))
        return f", float[{', '.join(map(str, shape))}] {name} = {{{values}}}"

    held = weights("stem", 8, 3, 4, 4) + weights("twin", 8, 3, 4, 4) + weights("predictor", 5, 8, 1, 1)
    text = NETWORK.replace("int64 first = {0}", "int64 first = {0}" + held)
    for word, part in (("OUTPUTS", outputs), ("TAIL", tail), ("MERGE", merge)):
        text = text.replace(word, part)
    return parse_graph(text)

NETWORK = """
<ir_version: 8, opset_import: ["" : 16]>
g (float[3, 64, 96] image) => (OUTPUTS)
<float[3, 1, 1] mean = {103.53, 116.28, 123.675}, float[3, 1, 1] std = {1.0, 1.0, 1.0}, int64[1] zero = {0},
 int64[1] one = {1}, int64[1] split = {1}, float[0] none = {}, float[4] four = {1.0, 1.0, 4.0, 4.0},
 int64[4] full = {1, 5, 64, 96}, int64[2] low = {0, 0}, int64[2] high = {64, 96}, int64[2] axes = {1, 2}, int64 first = {0},
 int64[1] two = {2}, int64[1] last = {-1}, int64[1] before = {-9223372036854775807}>
{
  centred = Sub(image, mean)
  scaled = Div(centred, std)
  batched = Unsqueeze(scaled, zero)
  features = Conv<kernel_shape = [4, 4], strides = [4, 4]>(batched, stem)
  active = Relu(features)
  coarse = Conv<kernel_shape = [4, 4], strides = [4, 4]>(batched, twin)
  MERGE
  logits = Conv<kernel_shape = [1, 1]>(merged, predictor)
  TAIL
}
"""
