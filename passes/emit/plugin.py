"""Adds plugin nodes to a graph: every attribute written, shapes inferred, the function body registered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from onnxgraft.ir.builder import Builder, tensor_of
from onnxgraft.ir.graph import PLUGIN_DOMAIN
from onnxgraft.ir.value import Value
from onnxgraft.plugins import REGISTRY

Output = tuple[str, Any, Sequence[int | str] | None]


def add_plugin(
    builder: Builder, op: str, inputs: Sequence[Value | gs.Tensor], outputs: Sequence[Output], **attrs: Any
) -> list[Value]:
    """One plugin node in the compiler's domain. Shapes of outputs are inferred where those of the inputs are fixed.

    Raises:
        PluginError: attributes or input shapes that the plugin's schema does not allow.
    """
    plugin = REGISTRY[op]
    shapes = [tuple(tensor_of(value).shape) for value in inputs]
    if all(isinstance(d, int) for shape in shapes for d in shape):
        attrs = plugin.validate(attrs, shapes, builder.prefix)
        inferred = plugin.infer_shapes(attrs, shapes)
        outputs = [(hint, dtype, list(shape)) for (hint, dtype, _), shape in zip(outputs, inferred, strict=True)]
    builder.graph.functions.setdefault(op, plugin.function(builder.graph.gs.opset))
    attrs = {key: value for key, value in attrs.items() if value is not None}
    made = builder.ops(op, inputs, outputs, domain=PLUGIN_DOMAIN, plugin_version=plugin.version, **attrs)
    return [builder.of(tensor) for tensor in made]
