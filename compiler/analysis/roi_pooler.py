"""Recognises detectron2's ROIPooler: RoiAlign nodes whose results are merged by the level of each box."""

from __future__ import annotations

import math
from typing import NamedTuple

import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import Pooler
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import back_through, binary, first_ancestor, producer, scalar

_SCATTER = {"ScatterND", "ScatterElements"}
_ROWS = {"Gather", "GatherND", "Slice", "Cast", "Squeeze", "Reshape"}


def analyse_poolers(graph: Graph) -> list[Pooler]:
    """All poolers in topological order (the box pooler comes before the mask pooler that depends on it).

    Raises:
        Refusal: RoiAlign nodes that do not form a pooler of detectron2.
    """
    groups: dict[int, tuple[gs.Tensor, list[gs.Node]]] = {}
    for node in graph.nodes:
        if node.op == "RoiAlign":
            pooled = _merged(node.outputs[0])
            groups.setdefault(id(pooled), (pooled, []))[1].append(node)
    return [_pooler(pooled, nodes) for pooled, nodes in groups.values()]


def _merged(tensor: gs.Tensor) -> gs.Tensor:
    """Follow a RoiAlign's result through the scatters that merge the levels."""
    while (scatter := _scatter_of(tensor)) is not None:
        tensor = scatter.outputs[0]
    return tensor


def _scatter_of(tensor: gs.Tensor) -> gs.Node | None:
    for node in tensor.outputs:
        if node.op in _SCATTER:
            return node
        if node.op in ("Reshape", "Cast", "Expand"):
            scatter = next((n for n in node.outputs[0].outputs if n.op in _SCATTER), None)
            if scatter is not None:
                return scatter
    return None


def _pooler(pooled: gs.Tensor, nodes: list[gs.Node]) -> Pooler:
    nodes = sorted(nodes, key=lambda n: -float(n.attrs.get("spatial_scale", 1.0)))
    first = nodes[0]
    settings = {_settings(node) for node in nodes}
    if len(settings) != 1:
        raise Refusal("the levels of this pooler differ in resolution, sampling ratio or alignment", first.name)
    resolution, sampling_ratio, aligned = settings.pop()
    boxes = {id(b): b for b in (_boxes(node) for node in nodes)}
    if len(boxes) != 1:
        raise Refusal("the levels of this pooler read different boxes", first.name)
    scales = tuple(float(node.attrs.get("spatial_scale", 1.0)) for node in nodes)
    if not all(0 < scale < math.inf for scale in scales):
        raise Refusal(f"spatial_scale {min(scales)} is no scale of a feature map", first.name)
    level_rule = _LevelRule()
    if len(nodes) > 1:
        level_rule = _level_rule(first, len(nodes))
        for index, scale in enumerate(scales[: level_rule.levels]):
            if abs(math.log2(1 / scale) - (level_rule.first + index)) > 1e-3:
                raise Refusal(
                    f"spatial_scale {scale} does not belong to level {level_rule.first + index}", nodes[index].name
                )
    channels = first.inputs[0].shape[1] if first.inputs[0].shape else 0
    return Pooler(
        resolution=resolution,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        scales=scales,
        min_level=level_rule.first if len(nodes) > 1 else round(math.log2(1 / scales[0])),
        canonical_level=level_rule.canonical_level,
        canonical_size=level_rule.canonical_size,
        epsilon=level_rule.epsilon,
        level_shift=level_rule.shift,
        unused_maps=len(nodes) - level_rule.levels if len(nodes) > 1 else 0,
        channels=int(channels),
        feature_tensors=tuple(node.inputs[0].name for node in nodes),
        boxes_tensor=next(iter(boxes.values())).name,
        pooled_tensor=pooled.name,
    )


def _settings(node: gs.Node) -> tuple[int, int, bool]:
    height, width = node.attrs.get("output_height", 1), node.attrs.get("output_width", 1)
    if height != width:
        raise Refusal(f"RoiAlign pools to {height}x{width}; only square poolers are known", node.name)
    if node.attrs.get("mode", "avg") != "avg":
        raise Refusal("RoiAlign with mode 'max' is not detectron2's", node.name)
    aligned = node.attrs.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    return int(height), int(node.attrs.get("sampling_ratio", 0)), aligned


def _boxes(node: gs.Node) -> gs.Tensor:
    """The [R, 4] tensor that a pooler gets: what is joined with the batch index in front of RoiAlign."""
    joined = producer(back_through(node.inputs[1], _ROWS))
    if joined is None or joined.op != "Concat" or len(joined.inputs) != 2:
        raise Refusal("the boxes of this RoiAlign are not [batch index | box] rows, as ROIPooler makes them", node.name)
    return joined.inputs[1]


def _inverse(number: float, node: gs.Node) -> float:
    if number == 0:
        raise Refusal("the level rule multiplies by zero", node.name)
    return 1 / number


class _LevelRule(NamedTuple):
    """The numbers of floor(canonical_level + log2(size / canonical_size + epsilon) + shift), the finest level, and how many
    there are."""

    first: int = 0
    canonical_level: float = 0.0
    canonical_size: float = 0.0
    epsilon: float = 0.0
    shift: float = 0.0
    levels: int = 1


def _level_rule(node: gs.Node, levels: int) -> _LevelRule:
    """Of assign_boxes_to_levels (detectron2 poolers.py), or of LevelMapper (torchvision ops/poolers.py), which adds its
    epsilon behind the logarithm."""
    floor = first_ancestor(node.inputs[1], lambda n: n.op == "Floor")
    if floor is None:
        raise Refusal("no Floor decides which level each box is pooled from", node.name)
    level = _operand(floor.inputs[0], {"Add"}, node)
    shift, after = 0.0, producer(level[0])
    if after is not None and after.op == "Add":
        shift, level = level[1], _operand(level[0], {"Add"}, node)
    ratio = _operand(level[0], {"Div", "Mul"}, node)
    log = producer(ratio[0])
    if log is None or log.op != "Log":
        raise Refusal("the level of a box is not computed by a logarithm", floor.name)
    base = ratio[1] if (ratio_node := producer(level[0])) is not None and ratio_node.op == "Div" else _inverse(ratio[1], floor)
    if abs(base - math.log(2)) > 1e-4:
        raise Refusal(f"the level rule divides by {base:.4f}, not by ln 2", floor.name)
    inside = producer(log.inputs[0])
    plain = shift and inside is not None and inside.op != "Add"
    shifted = (log.inputs[0], 0.0) if plain else _operand(log.inputs[0], {"Add"}, node)
    scaled = _operand(shifted[0], {"Div", "Mul"}, node)
    scaled_node = producer(shifted[0])
    size = scaled[1] if scaled_node is not None and scaled_node.op == "Div" else _inverse(scaled[1], floor)
    clip = next((n for n in floor.outputs[0].outputs if n.op == "Clip"), None)
    low, high = (
        (scalar(clip.inputs[1]), scalar(clip.inputs[2])) if clip is not None and len(clip.inputs) == 3 else (None, None)
    )
    ruled = round(high - low) + 1 if low is not None and high is not None else 0
    if low is None or ruled < 1 or ruled > levels or (ruled < levels and not shift):
        raise Refusal(f"levels are clipped to {low}..{high}, but {levels} feature maps are pooled", floor.name)
    return _LevelRule(round(low), level[1], round(size, 3), shifted[1], shift, ruled)


def _operand(tensor: gs.Tensor, ops: set[str], context: gs.Node) -> tuple[gs.Tensor, float]:
    node = producer(tensor)
    split = binary(node) if node is not None and node.op in ops else None
    if split is None:
        found = node.op if node is not None else "an input"
        raise Refusal(
            f"the level rule has {found} where {' or '.join(sorted(ops))} with a constant belongs", context.name
        )
    return split
