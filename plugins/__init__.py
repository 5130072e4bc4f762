"""Plugin ops as definitions: schema, shape inference, executable body, native lowering, targets.

Inside the compiler a plugin node lives in the domain "onnxgraft" and its body is a model-local
function, so that ONNX Runtime runs the graph. At hand-over to a target that has the plugin, the
domain becomes "" and the functions are dropped; for the others `lower` replaces the node.
"""

from __future__ import annotations

from onnxgraft.plugins.efficient_nms import EfficientNMS
from onnxgraft.plugins.modulated_deform_conv import ModulatedDeformConv2d
from onnxgraft.plugins.op import DOMAIN, PluginOp
from onnxgraft.plugins.pyramid_roi_align import PyramidROIAlign
from onnxgraft.plugins.roi_align import ROIAlign
from onnxgraft.plugins.schema import Attribute
from onnxgraft.plugins.uncapped_nms import UncappedNMS

__all__ = ["DOMAIN", "REGISTRY", "Attribute", "PluginOp"]

REGISTRY: dict[str, PluginOp] = {
    plugin.op_type: plugin
    for plugin in (EfficientNMS(), ModulatedDeformConv2d(), PyramidROIAlign(), ROIAlign(), UncappedNMS())
}
