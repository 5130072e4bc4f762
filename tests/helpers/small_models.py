"""A small model, and passes that misbehave."""

from __future__ import annotations

from pathlib import Path

BAD = Path(__file__).parents[1] / "data" / "bad_passes.py"

MODEL = """<ir_version: 10, opset_import: ["" : 17]>
g (float[1,3,8,8] image) => (float[1,4,8,8] features, float[1,4,8,8] scores) <float[4] bias = {0.1, 0.2, 0.3, 0.4}> {
    kernel = Constant <value = float[4,3,1,1] {1,2,3,4,5,6,7,8,9,10,11,12}> ()
    raw = Conv (image, kernel, bias)
    features = Relu (raw)
    same = Identity (features)
    scores = Sigmoid (same)
}"""
