"""What other tools and other detectors leave in a file that no detector's export here has: refused with the reason."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.plugins import REGISTRY

_CAFFE2 = frozenset({
    "AliasWithName", "BatchPermutation", "BBoxTransform", "BoxWithNMSLimit", "CollectAndDistributeFpnRpnProposals",
    "CollectRpnProposals", "CopyCPUToGPU", "CopyGPUToCPU", "DistributeFpnProposals", "GenerateProposals",
    "HeatmapMaxKeypoint", "ResizeNearest", "RoIAlign", "RoIAlignRotated",
})  # fmt: skip
_COMPUTING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


_OF_ANOTHER_DETECTOR = {
    "rotated": "is of rotated boxes (a centre, a size and an angle), as RRPN and RROIHeads have: TensorRT has neither their "
               "suppression nor their pooling, and nothing here stands for them",
    "swapalign": "is TensorMask's, which predicts each object's mask in a window of every cell: TensorRT has nothing for it, "
                 "and nothing here stands for it",
}  # fmt: skip
"""Words in the names of operators that only such detectors have."""


def refuse_foreign(graph: Graph) -> None:
    """Raises Refusal with the first node that Caffe2, ONNX Runtime's optimiser, an ATen fallback, a conversion to float16 or
    another compiler for TensorRT left there, and what to give instead; or one that only another kind of detector has."""
    for node in graph.nodes:
        reason = _left_by(node)
        if reason is not None:
            raise Refusal(reason, node.name)


def _left_by(node: gs.Node) -> str | None:
    domain = node.domain or ""
    plain = node.op.lower().replace("_", "")
    for word, reason in _OF_ANOTHER_DETECTOR.items():
        if word in plain:
            return f"{node.op} {reason}"
    if node.op in _CAFFE2 and (not domain or "caffe2" in domain):
        return (f"{node.op} is an operator of Caffe2, whose exports detectron2 made by Caffe2Tracer: export by tracing "
                "(`onnxgraft export`, or tools/deploy/export_model.py --export-method tracing --format onnx)")  # fmt: skip
    if node.op == "ATen" or "aten" in domain:
        what = node.attrs.get("operator", node.op)
        return f"torch's {what} was exported as an ATen operator, which nothing but PyTorch runs: export at a newer opset"
    if domain.startswith("com.microsoft"):
        return (f"{node.op} is an operator of ONNX Runtime's own, from its extended optimisation: give the export itself, or "
                "save it with ORT_ENABLE_BASIC")  # fmt: skip
    if node.op in REGISTRY and not domain:
        return (f"{node.op} is a plugin of TensorRT already: the file went through another compiler, such as NVIDIA's "
                "create_onnx.py; give the export that went into it")  # fmt: skip
    if node.op in _COMPUTING and any(isinstance(t, gs.Constant) and t.dtype == np.float16 for t in node.inputs):
        return (f"this {node.op} computes in float16: the file was converted; give the float32 export, and --precision fp16 "
                "for an engine of that type")  # fmt: skip
    return None
