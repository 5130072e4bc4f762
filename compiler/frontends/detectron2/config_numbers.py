"""The sidecar of an export: what the config decides, read from the model that was built from it.

The keys are those of `onnxgraft.detector.sidecar.FIELDS`, so that a build can check the graph against them. Imported only where
torch and detectron2 are installed.
"""

from __future__ import annotations

from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.modeling import roi_heads
from detectron2.modeling.poolers import ROIPooler

from onnxgraft.frontends.detectron2.configs import Source

DEFAULT_EDGES = (800, 1333)  # detectron2's INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST


def sidecar(source: Source, size: tuple[int, int]) -> dict[str, Any]:
    """What `model.json` says beside a model that was traced at `size` (height, width)."""
    model: Any = source.model
    shortest, longest = edges(source.config)
    numbers: dict[str, Any] = {
        "pixel_mean": model.pixel_mean.flatten().tolist(),
        "pixel_std": model.pixel_std.flatten().tolist(),
        "channel_order": channel_order(source.config),
        "shortest_edge": shortest,
        "longest_edge": longest,
    }
    if rpn := getattr(model, "proposal_generator", None):
        numbers |= _rpn(rpn, size)
    if heads := getattr(model, "roi_heads", None):
        numbers |= _heads(heads)
    if hasattr(model, "head_in_features"):
        numbers["dense"] = _dense(model)
    if segmenter := getattr(model, "sem_seg_head", None):
        numbers["semantic"] = {"classes": segmenter.predictor.out_channels, "stride": segmenter.common_stride}
    if hasattr(model, "combine_overlap_thresh"):
        numbers["panoptic"] = {
            "overlap_threshold": model.combine_overlap_thresh,
            "stuff_area_limit": model.combine_stuff_area_thresh,
            "instances_score_threshold": model.combine_instances_score_thresh,
        }
    classes = getattr(heads or model, "num_classes", None)
    described: dict[str, Any] = {"class_names": class_names(source.config, classes), "config": numbers}
    if segmenter is not None:
        described["semantic_class_names"] = class_names(source.config, segmenter.predictor.out_channels, "stuff_classes")
    return described


def edges(config: Any) -> tuple[int, int]:
    """Shortest and longest edge of the resize rule at test time, in pixels."""
    if hasattr(config, "INPUT"):
        return int(config.INPUT.MIN_SIZE_TEST), int(config.INPUT.MAX_SIZE_TEST)
    for rule in _get(config, "dataloader.test.mapper.augmentations") or ():
        if "short_edge_length" in rule:
            return int(rule["short_edge_length"]), int(rule["max_size"])
    return DEFAULT_EDGES


def channel_order(config: Any) -> str:
    """BGR or RGB: what the model was trained on."""
    if hasattr(config, "INPUT"):
        return str(config.INPUT.FORMAT)
    return str(_get(config, "dataloader.test.mapper.image_format") or _get(config, "model.input_format") or "BGR")


def class_names(config: Any, classes: int | None, kind: str = "thing_classes") -> list[str] | None:
    """The names of the test set's things (or "stuff_classes"), when detectron2 knows it and has as many as the model."""
    names = config.DATASETS.TEST if hasattr(config, "DATASETS") else _get(config, "dataloader.test.dataset.names")
    name = names if isinstance(names, str) or not names else names[0]
    if not name or name not in MetadataCatalog.list():
        return None
    names = MetadataCatalog.get(name).get(kind, None)
    return list(names) if names and len(names) == classes else None


def _get(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if config is not None and hasattr(config, "get") else None
    return config


def _rpn(rpn: Any, size: tuple[int, int]) -> dict[str, Any]:
    anchors = rpn.anchor_generator
    topk = rpn.pre_nms_topk[False]
    most = max(
        (size[0] // stride) * (size[1] // stride) * count
        for stride, count in zip(anchors.strides, anchors.num_anchors, strict=True)
    )
    numbers = {
        "box_weights": list(rpn.box2box_transform.weights),
        "post_nms_topk": rpn.post_nms_topk[False],
        "nms_threshold": rpn.nms_thresh,
        "min_box_size": rpn.min_box_size,
    }
    if most >= topk:  # a smaller picture has fewer anchors, and its trace does not show the limit
        numbers["pre_nms_topk"] = topk
    return {"strides": list(anchors.strides), "anchors": {"offset": anchors.offset}, "rpn": numbers}


def _heads(heads: Any) -> dict[str, Any]:
    stages = heads.box_predictor
    last = stages[-1] if isinstance(heads, roi_heads.CascadeROIHeads) else stages
    single = isinstance(heads, roi_heads.Res5ROIHeads)
    box = {
        "classes": last.num_classes,
        "box_weights": list(last.box2box_transform.weights),
        "score_threshold": last.test_score_thresh,
        "nms_threshold": last.test_nms_thresh,
        "detections": last.test_topk_per_image,
        "pooler": _pooler(heads.pooler if single else heads.box_pooler),
    }
    found: dict[str, Any] = {"box_head": box}
    if getattr(heads, "mask_on", False) and not single:
        found["mask_head"] = _masks(heads)
    if getattr(heads, "keypoint_on", False):
        head = heads.keypoint_head
        size = int(2 * head.up_scale) * heads.keypoint_pooler.output_size[0]
        found["keypoint_head"] = {"keypoints": head.num_keypoints, "size": size}
    return found


def _masks(heads: Any) -> dict[str, Any]:
    pooler, head = heads.mask_pooler, heads.mask_head
    if pooler is None:  # PointRend's, which samples the maps itself
        return {"size": head.mask_point_subdivision_init_resolution * 2**head.mask_point_subdivision_steps}
    return {"size": 2 * pooler.output_size[0], "pooler": {"aligned": _pooler(pooler)["aligned"]}}


def _pooler(pooler: ROIPooler) -> dict[str, Any]:
    level: Any = pooler.level_poolers[0]
    return {"resolution": pooler.output_size[0], "sampling_ratio": level.sampling_ratio, "aligned": level.aligned}


def _dense(model: Any) -> dict[str, Any]:
    numbers = {
        "classes": model.num_classes,
        "strides": list(model.anchor_generator.strides),
        "topk": model.test_topk_candidates,
        "score_threshold": model.test_score_thresh,
        "nms_threshold": model.test_nms_thresh,
        "detections": model.max_detections_per_image,
    }
    if hasattr(model.box2box_transform, "weights"):
        numbers["box_weights"] = list(model.box2box_transform.weights)
    return numbers
