"""Tells files whose opset ONNX's version converter raised: they say what the older opset could not."""

from __future__ import annotations

import re

import onnx

_IR_OF_OPSET = ((15, 8), (13, 7), (12, 6))  # the IR version that came with an opset, which its exporters write
_CONVERTERS_NAME = re.compile(r"_v_\d+")


def was_converted(model: onnx.ModelProto) -> bool:
    """Whether ONNX's version converter made this opset: the file keeps its older IR version, and has the converter's names."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    old = any(opset >= needs and model.ir_version < ir for needs, ir in _IR_OF_OPSET)
    return old or any(_CONVERTERS_NAME.fullmatch(name) for node in model.graph.node for name in node.input)
