"""The R-CNN family with a feature pyramid: Faster R-CNN and Mask R-CNN."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.box_head import analyse_box_head
from onnxgraft.analysis.image_input import analyse_input
from onnxgraft.analysis.mask_head import analyse_mask_head
from onnxgraft.analysis.pooler import analyse_poolers
from onnxgraft.analysis.rpn import analyse_rpn
from onnxgraft.detector import DetectorSpec, Outputs, Pooler
from onnxgraft.errors import Refusal
from onnxgraft.folding import infer_shapes
from onnxgraft.graph import Graph


def matches(graph: Graph) -> bool:
    """Whether the graph has what every detector of this family has: boxes that are pooled by RoiAlign."""
    return any(node.op == "RoiAlign" for node in graph.nodes)


def analyse_rcnn(graph: Graph) -> DetectorSpec:
    """Recognise a Faster or Mask R-CNN with FPN in a simplified graph.

    Raises:
        Refusal: names the node and the reason.
    """
    image = analyse_input(graph)
    size = image.height, image.width
    outputs = recognise_outputs(graph)
    poolers = analyse_poolers(graph)
    fix_pooled_shapes(graph, poolers)
    wanted = 2 if outputs.masks_tensor else 1
    if len(poolers) != wanted:
        raise Refusal(f"{len(poolers)} RoI poolers for {wanted} heads: cascade and keypoint heads are not known yet",
                      poolers[-1].pooled_tensor)  # fmt: skip
    _check_pyramid(poolers)
    box_pooler = poolers[0]
    rpn = analyse_rpn(graph, graph.tensor(box_pooler.boxes_tensor), size)
    box_head = analyse_box_head(graph, outputs, box_pooler, size)
    mask_head = None
    if outputs.masks_tensor:
        mask_head = analyse_mask_head(graph, graph.tensor(outputs.masks_tensor), box_head)
    return DetectorSpec(
        family="mask-rcnn-fpn" if mask_head else "faster-rcnn-fpn",
        image=image,
        rpn=rpn,
        box_pooler=box_pooler,
        box_head=box_head,
        mask_pooler=poolers[1] if mask_head else None,
        mask_head=mask_head,
        outputs=outputs,
    )


def _check_pyramid(poolers: list[Pooler]) -> None:
    for pooler in poolers:
        if len(pooler.scales) != 4:
            raise Refusal(f"this pooler reads {len(pooler.scales)} feature maps; the pyramid pooler has four",
                          pooler.pooled_tensor)  # fmt: skip


def fix_pooled_shapes(graph: Graph, poolers: list[Pooler]) -> None:
    """Scatters hide the shape of pooled features from inference; the pooler's settings tell it."""
    for pooler in poolers:
        pooled = graph.tensor(pooler.pooled_tensor)
        rows = pooled.shape[0] if pooled.shape else f"{pooled.name}_rows"
        pooled.shape = [rows, pooler.channels, pooler.resolution, pooler.resolution]
        pooled.dtype = np.dtype(np.float32)
    infer_shapes(graph)


def recognise_outputs(graph: Graph) -> Outputs:
    """Which output is what, by type and rank: boxes and masks are float of rank 2 and 4, classes are integers.

    Raises:
        Refusal: an output that fits no role, or a role without an output.
    """
    roles: dict[str, str] = {}
    for tensor in graph.gs.outputs:
        role = _role(tensor)
        if role is None or role in roles:
            raise Refusal(
                f"output {tensor.name!r} ({tensor.dtype}, {tensor.shape}) is none that a detectron2 detector has"
            )
        roles[role] = tensor.name
    for role in ("boxes", "scores", "classes"):
        if role not in roles:
            raise Refusal(f"no output looks like the detections' {role}: outputs are "
                          f"{', '.join(repr(t.name) for t in graph.gs.outputs)}")  # fmt: skip
    return Outputs(
        boxes_tensor=roles["boxes"],
        scores_tensor=roles["scores"],
        classes_tensor=roles["classes"],
        masks_tensor=roles.get("masks"),
        image_size_tensor=roles.get("image_size"),
    )


def _role(tensor: gs.Tensor) -> str | None:
    if isinstance(tensor, gs.Constant) or tensor.shape == [2]:
        return "image_size"
    rank = len(tensor.shape) if tensor.shape is not None else None
    floating = tensor.dtype is not None and np.issubdtype(np.dtype(tensor.dtype), np.floating)
    if floating:
        return {1: "scores", 2: "boxes", 4: "masks"}.get(rank or 0)
    return "classes" if rank == 1 else None
