"""The R-CNN families: Fast, Faster, Mask, Keypoint and Cascade R-CNN, on one feature map or a pyramid."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.box_head import analyse_box_head, analyse_stages
from onnxgraft.analysis.image_input import analyse_input
from onnxgraft.analysis.keypoint_head import analyse_keypoint_head
from onnxgraft.analysis.mask_head import analyse_mask_head, refuse_pasted
from onnxgraft.analysis.outputs import recognise_outputs
from onnxgraft.analysis.point_head import analyse_point_head, masks_of_points, samples_points
from onnxgraft.analysis.provenance import refuse_change, selected_from
from onnxgraft.analysis.roi_pooler import analyse_poolers
from onnxgraft.analysis.rpn import analyse_rpn
from onnxgraft.analysis.semantic_head import analyse_semantic_head
from onnxgraft.detector.spec import BoxHead, DetectorSpec, Outputs, Pooler
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import infer_shapes
from onnxgraft.ir.traverse import ancestors, value

_SAYS_ALIGNMENT = 16  # the first opset whose RoiAlign has a coordinate_transformation_mode


def says_alignment(graph: Graph) -> bool:
    """Whether a file says how its RoiAlign is aligned; one that ONNX's version converter raised does not."""
    return graph.source_opset >= _SAYS_ALIGNMENT and not graph.converted


def matches(graph: Graph) -> bool:
    """Whether the graph has what every detector of this family has: boxes that are pooled by RoiAlign."""
    return any(node.op == "RoiAlign" for node in graph.nodes)


def analyse_rcnn(graph: Graph) -> DetectorSpec:
    """Recognise a detector with a box head, and whatever heads follow its detections, in a simplified graph.

    Raises:
        Refusal: names the node and the reason.
    """
    _refuse_traced_counts(graph)
    image = analyse_input(graph)
    size = image.height, image.width
    poolers = analyse_poolers(graph)
    fix_pooled_shapes(graph, poolers)
    outputs = recognise_outputs(graph)
    if outputs.masks_tensor:
        refuse_pasted(graph.tensor(outputs.masks_tensor))
    stages, of_masks, of_heatmaps = _by_head(graph, poolers, outputs)
    proposals = graph.tensor(stages[0].boxes_tensor)
    given = next((t.name for t in graph.gs.inputs if t is proposals), None)
    semantic = analyse_semantic_head(graph, graph.tensor(outputs.semantic_tensor), image) if outputs.semantic_tensor else None
    box_head = analyse_box_head(graph, outputs, stages, size)
    _refuse_lost_alignment(graph, box_head, poolers)
    detected = selected_from(graph.tensor(outputs.boxes_tensor or ""))
    for pooler in (p for p in (of_masks, of_heatmaps) if p is not None):
        refuse_change(graph.tensor(pooler.boxes_tensor), lambda t: id(t) in detected, "boxes that this head is pooled from")
    mask_head = keypoint_head = point_head = None
    if outputs.masks_tensor and of_masks is None:
        point_head = analyse_point_head(graph, outputs)
        mask_head = masks_of_points(point_head, graph, box_head)
    elif outputs.masks_tensor:
        mask_head = analyse_mask_head(graph, graph.tensor(outputs.masks_tensor), box_head)
    if outputs.heatmaps_tensor:
        keypoint_head = analyse_keypoint_head(graph, graph.tensor(outputs.heatmaps_tensor))
    return DetectorSpec(
        family=_family(outputs, stages, given is not None),
        image=image,
        outputs=outputs,
        rpn=None if given else analyse_rpn(graph, proposals, size),
        proposals_input=given,
        cascade=analyse_stages(graph, outputs, stages, size),
        box_pooler=stages[-1],
        box_head=box_head,
        mask_pooler=of_masks,
        mask_head=mask_head,
        point_head=point_head,
        keypoint_pooler=of_heatmaps,
        keypoint_head=keypoint_head,
        semantic=semantic,
    )


def _refuse_traced_counts(graph: Graph) -> None:
    """Hold that no Split has a number of boxes written into it, as tracing without TracingAdapter leaves one.

    Raises:
        Refusal: names the Split, and how to export.
    """
    for node in graph.nodes:
        sizes = value(node.inputs[1]) if node.op == "Split" and len(node.inputs) > 1 else None
        rows = (node.inputs[0].shape or [0])[0]
        if sizes is not None and node.attrs.get("axis", 0) == 0 and sizes.size == 1 and not isinstance(rows, int):
            raise Refusal(
                f"this Split takes {int(sizes.reshape(-1)[0])} boxes, the number of the traced picture: Python's len was "
                "traced as a constant, so the file holds for that picture alone; export with detectron2's TracingAdapter, as "
                "`onnxgraft export` does",
                node.name,
            )


def _refuse_lost_alignment(graph: Graph, head: BoxHead, poolers: list[Pooler]) -> None:
    """Below opset 16 an export does not say whether RoiAlign is aligned, and detectron2's is: torchvision's is not.

    Raises:
        Refusal: a detector with its background first, whose RoiAlign was taken as aligned.
    """
    if head.background_first and not says_alignment(graph) and any(pooler.aligned for pooler in poolers):
        raise Refusal(f"this export of opset {graph.source_opset} does not say how RoiAlign is aligned, and torchvision's, "
                      "whose background comes first as here, is not: build with --pooler-type ROIAlign, or export at opset 16 "
                      "or later",
                      poolers[0].pooled_tensor)  # fmt: skip


def _family(outputs: Outputs, stages: list[Pooler], proposals_given: bool) -> str:
    kind = "mask-rcnn" if outputs.masks_tensor else "keypoint-rcnn" if outputs.heatmaps_tensor else "faster-rcnn"
    kind = "fast-rcnn" if proposals_given else f"cascade-{kind}" if len(stages) > 1 else kind
    if outputs.semantic_tensor:
        kind = f"panoptic-{kind}"
    return kind + ("-fpn" if len(stages[0].feature_tensors) > 1 else "")


def _by_head(
    graph: Graph, poolers: list[Pooler], outputs: Outputs
) -> tuple[list[Pooler], Pooler | None, Pooler | None]:
    """The poolers of proposals, stage by stage, of masks, and of heatmaps: told by what depends on them."""
    scores = graph.tensor(outputs.scores_tensor or "")
    of_boxes = _upstream(graph, poolers, scores)
    if not of_boxes:
        raise Refusal("the detections' scores depend on no RoI pooler", scores.name)
    found: dict[str, Pooler | None] = {}
    for role, name in (("masks", outputs.masks_tensor), ("heatmaps", outputs.heatmaps_tensor)):
        own = [p for p in _upstream(graph, poolers, graph.tensor(name)) if p not in of_boxes] if name else []
        if name and not own and role == "masks" and samples_points(graph.tensor(name)) is not None:
            found[role] = None
            continue
        if name and len(own) != 1:
            raise Refusal(f"{len(own)} RoI poolers feed the {role}, expected one", name)
        found[role] = own[0] if own else None
    unused = [p for p in poolers if p not in of_boxes and p not in found.values()]
    if unused:
        raise Refusal("this RoI pooler belongs to no head that is known", unused[0].pooled_tensor)
    return of_boxes, found["masks"], found["heatmaps"]


def _upstream(graph: Graph, poolers: list[Pooler], tensor: gs.Tensor) -> list[Pooler]:
    made = {id(t) for node in ancestors(tensor) for t in node.outputs}
    return [p for p in poolers if id(graph.tensor(p.pooled_tensor)) in made]


def fix_pooled_shapes(graph: Graph, poolers: list[Pooler]) -> None:
    """Scatters hide the shape of pooled features from inference; the pooler's settings tell it."""
    for pooler in poolers:
        pooled = graph.tensor(pooler.pooled_tensor)
        rows = pooled.shape[0] if pooled.shape else f"{pooled.name}_rows"
        pooled.shape = [rows, pooler.channels, pooler.resolution, pooler.resolution]
        pooled.dtype = np.dtype(np.float32)
    infer_shapes(graph)
