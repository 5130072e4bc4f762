"""A detector as a table: every number that was read from the graph."""

from __future__ import annotations

from onnxgraft.detector.spec import RPN, BoxHead, DenseHead, DetectorSpec, Pooler

Row = tuple[str, str, str]  # part, what, value


def spec_rows(spec: DetectorSpec) -> list[Row]:
    """A spec as a table: every number that was read from the graph."""
    image = spec.image
    order = image.order if image.order_known else f"{image.order} (assumed: the mean does not tell)"
    rows: list[Row] = [
        ("detector", "family", spec.family),
        ("image", "size of the export", f"{image.height} x {image.width}"),
        ("image", "mean", _numbers(image.mean)),
        ("image", "std", _numbers(image.std)),
        ("image", "channel order", order),
    ]
    if spec.rpn is not None:
        rows += _rpn_rows(spec.rpn)
    if spec.proposals_input is not None:
        rows.append(("proposals", "input", spec.proposals_input))
    for index, stage in enumerate(spec.cascade, start=1):
        rows.append((f"cascade stage {index}", "box weights", _numbers(stage.coder.weights)))
    if spec.box_pooler is not None:
        rows += _pooler_rows("box pooler", spec.box_pooler)
    if spec.box_head is not None:
        rows += _box_head_rows(spec.box_head)
    if spec.dense is not None:
        rows += _dense_rows(spec.dense)
    if spec.mask_pooler is not None:
        rows += _pooler_rows("mask pooler", spec.mask_pooler)
    if spec.point_head is not None:
        rows.append(("point head", "points", ", ".join(f"{s.points} of {s.side} x {s.side}" for s in spec.point_head.steps)))
    if spec.mask_head is not None:
        rows += [
            ("mask head", "mask size", f"{spec.mask_head.resolution} x {spec.mask_head.resolution}"),
            ("mask head", "masks", "class-agnostic" if spec.mask_head.class_agnostic else "per class"),
        ]
    if spec.keypoint_pooler is not None and spec.keypoint_head is not None:
        rows += _pooler_rows("keypoint pooler", spec.keypoint_pooler)
        rows += [
            ("keypoint head", "keypoints", str(spec.keypoint_head.keypoints)),
            ("keypoint head", "heatmap size", f"{spec.keypoint_head.resolution} x {spec.keypoint_head.resolution}"),
        ]
    if spec.semantic is not None:
        rows += [
            ("semantic head", "classes", str(spec.semantic.num_classes)),
            ("semantic head", "stride", str(spec.semantic.stride)),
        ]
    return rows


def _rpn_rows(rpn: RPN) -> list[Row]:
    return [
        ("rpn", "strides", _numbers(level.stride for level in rpn.levels)),
        ("rpn", "anchor sizes", " | ".join(_numbers(level.anchor_sizes) for level in rpn.levels)),
        ("rpn", "aspect ratios", " | ".join(dict.fromkeys(_numbers(level.aspect_ratios) for level in rpn.levels))),
        ("rpn", "anchor offset", _numbers({level.anchor_offset for level in rpn.levels})),
        ("rpn", "top-k before NMS", f"{rpn.pre_nms_topk} a level"),
        ("rpn", "top-k after NMS", str(rpn.post_nms_topk)),
        ("rpn", "NMS threshold", _number(rpn.nms_threshold)),
        ("rpn", "smallest box", _number(rpn.min_box_size)),
        ("rpn", "box weights", _numbers(rpn.coder.weights)),
        ("rpn", "scale clamp", _number(rpn.coder.scale_clamp)),
    ]


def _box_head_rows(head: BoxHead) -> list[Row]:
    return [
        ("box head", "classes", str(head.num_classes)),
        ("box head", "scores", head.activation),
        ("box head", "regression", "class-agnostic" if head.class_agnostic else "per class"),
        ("box head", "box weights", _numbers(head.coder.weights)),
        ("box head", "scale clamp", _number(head.coder.scale_clamp)),
        ("box head", "score threshold", _number(head.score_threshold)),
        ("box head", "NMS threshold", _number(head.nms_threshold)),
        ("box head", "detections per image", str(head.detections_per_image)),
    ]


def _dense_rows(head: DenseHead) -> list[Row]:
    return [
        ("dense head", "strides", _numbers(level.stride for level in head.levels)),
        ("dense head", "anchors a location", _numbers({level.anchors for level in head.levels})),
        ("dense head", "classes", str(head.num_classes)),
        ("dense head", "box weights", _numbers(head.coder.weights) if head.coder else "distances to the sides"),
        ("dense head", "score threshold", _number(head.score_threshold)),
        *([("dense head", "scores", "softmax, background first")] if head.first_class else []),
        ("dense head", "top-k before NMS", f"{head.class_topk} a class" if head.class_topk is not None else
         f"{max(level.topk for level in head.levels)} a level"),
        ("dense head", "NMS threshold", _number(head.nms_threshold)),
        ("dense head", "detections per image", str(head.detections_per_image)),
    ]


def _pooler_rows(part: str, pooler: Pooler) -> list[Row]:
    return [
        (part, "type", "ROIAlignV2 (aligned)" if pooler.aligned else "ROIAlign (not aligned)"),
        (part, "resolution", f"{pooler.resolution} x {pooler.resolution}"),
        (part, "sampling ratio", str(pooler.sampling_ratio) if pooler.sampling_ratio else "0 (adaptive)"),
        (part, "strides", _numbers(1 / scale for scale in pooler.scales)),
        (part, "canonical", f"{_number(pooler.canonical_size)} pixels at level {_number(pooler.canonical_level)}"),
        (part, "channels", str(pooler.channels)),
    ]


def _number(value: float) -> str:
    return f"{value:.6g}"


def _numbers(values: object) -> str:
    return ", ".join(_number(float(v)) for v in values)  # type: ignore[attr-defined]
