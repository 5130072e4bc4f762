"""ROIAlign_TRT, version 2: RoIAlign on one map, as the ONNX op RoiAlign imports.

Formula source: TensorRT OSS 11.1, plugin/roiAlignPlugin (read for facts). Box times spatial_scale,
minus half a cell when aligned; without alignment each side is at least one cell. Adaptive sampling
(sampling_ratio 0) takes ceil(bin) samples per axis. Samples more than one cell off the map count
as zero; the others are clamped to it.

Trap: an aligned box of zero width or height with adaptive sampling has no samples, and the plugin
divides 0 by 0. `function` gives that NaN; detectron2, ONNX Runtime and `lower` give 0.
A box with a NaN coordinate is NaN in `function`, 0 in `lower`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from onnxgraft.errors import PluginError
from onnxgraft.ir.value import Value, concat, where
from onnxgraft.plugins.builder import Builder, tensor_info
from onnxgraft.plugins.native.bilinear import Axis, Pooling
from onnxgraft.plugins.native.roi_align import OPTIONS, map_rows, map_type, output_graph, pool
from onnxgraft.plugins.op import PluginOp, Shape
from onnxgraft.plugins.schema import Attribute, flag

_INT, _FLOAT = AttributeProto.INT, AttributeProto.FLOAT


class ROIAlign(PluginOp):
    """X [N,C,H,W], rois [R,4] x1,y1,x2,y2, batch_indices [R] int32 -> Y [R,C,height,width].

    X, rois and Y are all float32 or all float16.
    """

    op_type = "ROIAlign_TRT"
    version = "2"
    inputs = ("X", "rois", "batch_indices")
    outputs = ("Y",)
    targets = frozenset({"tensorrt"})
    releases = (("8.5", "1"), ("10.1", "2"))
    group = "roi-align"
    selected = ("X",)
    attributes = (
        Attribute(
            "output_height", "int", "bins down", required=True,
            allowed="at least 1", check=lambda v: v >= 1,
        ),
        Attribute(
            "output_width", "int", "bins across", required=True,
            allowed="at least 1", check=lambda v: v >= 1,
        ),
        Attribute(
            "spatial_scale", "float", "cells per unit of rois: 1/stride", required=True,
            allowed="above 0", check=lambda v: v > 0,
        ),
        Attribute(
            "sampling_ratio", "int", "samples per bin and axis; 0: adaptive, ceil of the bin",
            0, allowed="0 or more", check=lambda v: v >= 0,
        ),
        flag("mode", 1, "1: mean of the samples; 0: their maximum"),
        flag("coordinate_transformation_mode", 1, "1: half pixel (aligned); 0: not"),
    )  # fmt: skip
    options = OPTIONS

    def infer_shapes(self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape]) -> list[Shape]:
        a = self.validate(attrs, input_shapes)
        x, rois, _ = input_shapes
        return [(rois[0], x[1], a["output_height"], a["output_width"])]

    def _check(self, attrs: Mapping[str, Any], shapes: list[Shape], where: str) -> None:
        x, rois, indices = shapes
        if len(x) != 4:
            raise PluginError(f"{where}: X {list(x)} must be [N, C, H, W]")
        if len(rois) != 2 or rois[1] != 4:
            raise PluginError(f"{where}: rois {list(rois)} must be [R, 4]")
        if indices != rois[:1]:
            raise PluginError(f"{where}: batch_indices {list(indices)} must be [{rois[0]}]")

    def function(self, opset: int = 17) -> onnx.FunctionProto:
        b = Builder(function=True)
        x, rois = b.input("X"), b.input("rois")
        image_of = b.input("batch_indices").cast(TensorProto.INT64)
        broken = rois.sum(1, keepdims=True).isnan()  # [R,1]
        safe = where(broken, b.op("CastLike", 0.0, rois), rois)
        aligned = b.attribute("coordinate_transformation_mode", _INT).equal(1)
        mean = b.attribute("mode", _INT).equal(1)

        def align(into: Builder, transform: str, mode: str) -> Value:
            return into.referring(
                "RoiAlign", x, safe, image_of,
                references={
                    "output_height": ("output_height", _INT),
                    "output_width": ("output_width", _INT),
                    "sampling_ratio": ("sampling_ratio", _INT),
                    "spatial_scale": ("spatial_scale", _FLOAT),
                },
                coordinate_transformation_mode=transform, mode=mode,
            )  # fmt: skip

        def by_mode(into: Builder, transform: str) -> Value:
            return _if(
                into, into.here(mean),
                lambda c: align(c, transform, "avg"), lambda c: align(c, transform, "max"),
            )  # fmt: skip

        pooled = _if(
            b, aligned, lambda c: by_mode(c, "half_pixel"),
            lambda c: by_mode(c, "output_half_pixel"),
        )  # fmt: skip
        empty = self._no_samples(b, safe) & aligned & mean
        poison = where(broken | empty, float("nan"), 0.0).unsqueeze(2, 3)
        b.output(pooled + b.op("CastLike", poison, x), "Y")
        return self._function(b.nodes, opset)

    def _no_samples(self, b: Builder, rois: Value) -> Value:
        """bool [R,1]: adaptive sampling finds ceil(bin) = 0 on some axis."""
        scale = b.op("CastLike", b.attribute("spatial_scale", _FLOAT), rois)
        half = b.op("CastLike", 0.5, rois)
        shape = [b.attribute(n, _INT).reshape(1) for n in ("output_width", "output_height")]
        bins = b.op("CastLike", concat(*shape, axis=0), rois)
        start = rois.take([0, 1], axis=1) * scale - half
        stop = rois.take([2, 3], axis=1) * scale - half
        count = ((stop - start) / bins).ceil().cast(TensorProto.FLOAT)
        none = count.take([0], axis=1) * count.take([1], axis=1)
        return none.equal(0.0) & b.attribute("sampling_ratio", _INT).equal(0)

    def lower(
        self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape], options: Mapping[str, Any] | None = None
    ) -> onnx.GraphProto:
        """See `native.roi_align`. Only the mean (mode 1) has a native form."""
        a = self.validate(attrs, input_shapes)
        if a["mode"] != 1:
            raise PluginError("lowering of ROIAlign_TRT: mode=0 (max) has no native form")
        chosen = self.lowering_options(options)
        dtype = TensorProto.FLOAT if chosen["dtype"] == "float32" else TensorProto.FLOAT16
        narrow = map_type(chosen, dtype)
        (batch, channels, height, width), (boxes, _) = input_shapes[0], input_shapes[1]
        bins = np.array([[a["output_width"], a["output_height"]]], np.float32)

        b = Builder()
        rois = b.input("rois")
        rois = where(rois.isnan(), 0.0, rois)
        shift = 0.5 if a["coordinate_transformation_mode"] else 0.0
        start, stop = (
            rois.take(np.array(c), axis=1) * np.float32(a["spatial_scale"]) - shift
            for c in ([0, 1], [2, 3])
        )
        side = stop - start
        if not a["coordinate_transformation_mode"]:
            side = side.max(1.0)
        step = side / bins
        adaptive = step.ceil()
        cells = np.array([[width, height]], np.float32)
        extent = b.op("Expand", cells, np.array([boxes, 2]))
        x, y = (Axis(*(v.take([i], axis=1) for v in (start, step, extent, adaptive))) for i in (0, 1))
        base = b.input("batch_indices").unsqueeze(1) * np.int32(height * width)
        stride = b.constant(np.array([[width]], np.int32))
        pooling = Pooling(
            height=a["output_height"], width=a["output_width"], channels=channels, boxes=boxes,
            sampling_ratio=a["sampling_ratio"], roi_sampling=chosen["roi_sampling"], dtype=dtype,
            roi_groups=chosen["roi_groups"], zero_outside=True, narrow=narrow != dtype,
        )  # fmt: skip
        rows = map_rows(b, [b.input("X")], [input_shapes[0]])
        pooled = pool(b, rows, base, stride, y, x, pooling)
        infos = [
            tensor_info("X", (batch, channels, height, width), narrow),
            tensor_info("rois", (boxes, 4)),
            tensor_info("batch_indices", (boxes,), TensorProto.INT32),
        ]
        shape = (boxes, channels, a["output_height"], a["output_width"])
        return output_graph(b, "roi_align", infos, pooled, "Y", shape, dtype)


def _if(b: Builder, condition: Value, yes: Any, no: Any) -> Value:
    """An If whose branches are functions of a builder that return one value."""
    graphs = []
    for name, branch in (("then", yes), ("else", no)):
        body = b.body()
        result = branch(body)
        info = helper.make_tensor_value_info(result.name, TensorProto.UNDEFINED, None)
        info.ClearField("type")
        graphs.append(body.graph(name, [], [info]))
    return b.op("If", condition, then_branch=graphs[0], else_branch=graphs[1])
