"""Names the parts of a detector's network, so that precision can be chosen by part: no exporter's name is used.

Regions are backbone, fpn, rpn or dense-head, box-head, mask-head, keypoint-head and semantic-head. A layer with weights
is called by its region and its place there, `backbone/0` being the first convolution. Two groups cut across:
`first-conv`, and `predictors`, the last layer of each head and what predicts the offsets of deformable convolutions.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import PointHead
from onnxgraft.errors import InputError
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import RESHAPING, WEIGHTED
from onnxgraft.ir.traverse import ancestors, back_through, producer
from onnxgraft.pipeline.context import Context
from onnxgraft.plugins import REGISTRY

REGIONS = ("backbone", "fpn", "rpn", "dense-head", "box-head", "mask-head", "keypoint-head", "semantic-head")
GROUPS = ("first-conv", "predictors")
_POOLED = frozenset({"box-head", "mask-head", "keypoint-head"})
_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Sigmoid", "HardSwish", "Clip", "Gelu"})

_JOINS = frozenset({"Add", "Sum", "Max", "Where"})  # of what the levels' poolers made


@dataclass
class Regions:
    """Where the network's nodes lie.

    Attributes:
        of: region by node name; nodes outside the network (decode, NMS, pooling) are absent.
        layers: names of layers with weights, in execution order, to their node: {"backbone/0": node}.
        predictors: names of the layers whose output is logits, deltas, or offsets of deformable convolutions.
    """

    of: dict[str, str] = field(default_factory=dict)
    layers: dict[str, gs.Node] = field(default_factory=dict)
    predictors: set[str] = field(default_factory=set)

    def chosen(self, keep: str) -> set[str]:
        """The layers that a list such as "first-conv+rpn+backbone/3" names; shell patterns are allowed.

        Raises InputError for a part that names nothing in this network.
        """
        found: set[str] = set()
        for part in filter(None, (p.strip() for p in keep.split("+"))):
            if part == "none":
                continue
            found |= self._named(part)
        return found

    def _named(self, part: str) -> set[str]:
        names = list(self.layers)
        if part == "first-conv":
            return set(names[:1])
        if part == "predictors":
            return set(self.predictors)
        if part in REGIONS:
            return {n for n in names if n.partition("/")[0] == part}
        found = set(fnmatch.filter(names, part))
        if not found:
            last = f"{names[-1]!r} is the last layer" if names else "the network has no layers"
            there = [region for region in REGIONS if any(n.partition("/")[0] == region for n in names)]
            raise InputError(f"no layer is called {part!r}: give {', '.join((*GROUPS, *there))}, or a layer such as "
                             f"'backbone/0' ({last})")  # fmt: skip
        return found


def find_regions(graph: Graph, ctx: Context) -> Regions:
    """Sort the nodes between the normalised image and the heads' logits and deltas into regions."""
    spec = ctx.spec()
    ends = {
        "rpn" if spec.rpn else "dense-head": spec.dense_tensors(),
        "box-head": [
            *(name for stage in spec.cascade for name in (stage.logits_tensor, stage.deltas_tensor)),
            *([spec.box_head.logits_tensor, spec.box_head.deltas_tensor] if spec.box_head else []),
        ],
        "mask-head": _of_points(graph, spec.point_head) if spec.point_head else
                     [spec.mask_head.logits_tensor] if spec.mask_head else [],
        "keypoint-head": [spec.keypoint_head.logits_tensor] if spec.keypoint_head else [],
        "semantic-head": [ctx.current(spec.semantic.logits_tensor)] if spec.semantic else [],
    }
    image = graph.tensor(ctx.values.normalized)
    maps = spec.feature_tensors()
    features = [graph.tensor(name) for name in dict.fromkeys(maps)]
    pooled = [t for node in graph.nodes if _pools(node) for t in node.outputs]
    pooled += [t for node in graph.nodes if _zeroes_empty(node) for t in node.outputs]
    if spec.point_head is not None:  # whose heads also read how many boxes there are
        pooled += [graph.tensor(ctx.current(name)) for name in spec.point_head.read()]
        pooled += [t for node in graph.nodes if node.op == "Shape" for t in node.outputs]
    regions = Regions()
    for region, names in ends.items():
        tensors = [graph.tensor(name) for name in names]
        stop = pooled if region in _POOLED else features
        _mark(regions, _between(tensors, [*stop, image]), region)
        regions.predictors.update(back_through(tensor, {"Resize"}).name for tensor in tensors)
    _mark(regions, _between(features, [image]), "backbone")
    for node in _before_activation(features, image):
        regions.of[node.name] = "fpn" if regions.of.get(node.name) == "backbone" else regions.of.get(node.name, "fpn")
    regions.predictors.update(layer.outputs[0].name for node in graph.nodes for layer in offset_layers(node))
    _number(graph, regions)
    return regions


def _of_points(graph: Graph, head: PointHead) -> list[str]:
    """What the heads of coarse masks and of points predict, before it is laid out."""
    return [back_through(graph.tensor(name), RESHAPING).name for name in head.predicted()]


def _pools(node: gs.Node) -> bool:
    return node.op == "RoiAlign" or (node.op in REGISTRY and REGISTRY[node.op].group == "roi-align")


def _zeroes_empty(node: gs.Node) -> bool:
    """Whether a node puts zeros where a box is empty: its condition comes from the boxes, and is no part of a head."""
    return node.op == "Where" and any(_is_pooled(tensor) for tensor in node.inputs[1:])


def _is_pooled(tensor: gs.Tensor) -> bool:
    """Whether a tensor is what poolers made, joined over levels and reshaped."""
    node = producer(back_through(tensor, RESHAPING))
    if node is None or _pools(node):
        return node is not None
    return node.op in _JOINS and any(_is_pooled(t) for t in node.inputs)


def _between(ends: Iterable[gs.Tensor], stop: Iterable[gs.Tensor]) -> list[gs.Node]:
    barrier = {id(t): t for t in stop}
    return list({id(node): node for end in ends for node in ancestors(end, barrier)}.values())


def _mark(regions: Regions, nodes: Iterable[gs.Node], region: str) -> None:
    for node in nodes:
        regions.of.setdefault(node.name, region)


def _before_activation(features: Iterable[gs.Tensor], image: gs.Tensor) -> list[gs.Node]:
    """Nodes between the feature maps and the last activation before them: laterals, merges and output convolutions."""
    found: dict[int, gs.Node] = {}
    queue = list(features)
    while queue:
        tensor = queue.pop()
        for node in tensor.inputs:
            if tensor is image or id(node) in found or node.op in _ACTIVATIONS:
                continue
            found[id(node)] = node
            queue += [t for t in node.inputs if isinstance(t, gs.Variable)]
    return list(found.values())


def _number(graph: Graph, regions: Regions) -> None:
    """Name the layers: a layer counts once per node, shared weights or not."""
    counts: dict[str, int] = {}
    ends, regions.predictors = regions.predictors, set()
    for node in graph.nodes:
        region = regions.of.get(node.name)
        if region is None or node.op not in WEIGHTED or not is_weighted(node):
            continue
        name = f"{region}/{counts.get(region, 0)}"
        counts[region] = counts.get(region, 0) + 1
        regions.layers[name] = node
        if node.outputs[0].name in ends:
            regions.predictors.add(name)


def is_weighted(node: gs.Node) -> bool:
    """Whether the node multiplies an activation by constant weights, quantized or not."""
    if node.op not in WEIGHTED or len(node.inputs) < 2:
        return False
    weight = node.inputs[1]
    return isinstance(weight, gs.Constant) or any(n.op == "DequantizeLinear" for n in weight.inputs)

PLUGIN = "ModulatedDeformConv2d"


def offset_layers(node: gs.Node) -> list[gs.Node]:
    """The convolutions that predict the offsets and the mask of a deformable convolution; none for other nodes."""
    if node.op not in (PLUGIN, "DeformConv"):
        return []
    found: list[gs.Node] = []
    queue = node.inputs[1:3] if node.op == PLUGIN else [*node.inputs[2:3], *node.inputs[4:5]]
    seen: set[int] = set()
    while queue:
        for source in queue.pop().inputs:
            if id(source) in seen:
                continue
            seen.add(id(source))
            if source.op == "Conv":
                found.append(source)
            else:
                queue += source.inputs
    return found
