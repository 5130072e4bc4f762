"""Plugin ops as definitions: schema, shape inference, executable body, native lowering, targets.

Inside the compiler a plugin node lives in the domain "onnxgraft" and its body is a model-local
function, so that ONNX Runtime runs the graph. At hand-over to a target that has the plugin, the
domain becomes "" and the functions are dropped; for the others `lower` replaces the node.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxgraft.errors import PluginError
from onnxgraft.plugins.efficient_nms import EfficientNMS
from onnxgraft.plugins.modulated_deform_conv import ModulatedDeformConv2d
from onnxgraft.plugins.op import DOMAIN, PluginOp
from onnxgraft.plugins.pyramid_roi_align import PyramidROIAlign
from onnxgraft.plugins.roi_align import ROIAlign
from onnxgraft.plugins.schema import Attribute
from onnxgraft.plugins.uncapped_nms import UncappedNMS

__all__ = ["DOMAIN", "REGISTRY", "Attribute", "PluginOp", "functions_for", "get"]

REGISTRY: dict[str, PluginOp] = {
    plugin.op_type: plugin
    for plugin in (EfficientNMS(), ModulatedDeformConv2d(), PyramidROIAlign(), ROIAlign(), UncappedNMS())
}


def get(op_type: str) -> PluginOp:
    """The definition of a plugin op. Raises PluginError naming the known ones."""
    if op_type not in REGISTRY:
        raise PluginError(f"no plugin op {op_type!r}, knows {', '.join(sorted(REGISTRY))}")
    return REGISTRY[op_type]


def functions_for(op_types: Iterable[str], opset: int = 17) -> list[onnx.FunctionProto]:
    """Bodies of the plugin ops among `op_types`, each once, sorted by name."""
    return [REGISTRY[name].function(opset) for name in sorted(set(op_types) & REGISTRY.keys())]
