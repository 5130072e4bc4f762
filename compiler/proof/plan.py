"""Which parts a detector has, and at which tensors they begin and end in the file's graph and in the compiled one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import BoxHead, Pooler
from onnxgraft.proof import map_probes, parts, probes
from onnxgraft.proof.parts import Part, Port
from onnxgraft.proof.point_parts import point_parts
from onnxgraft.proof.sides import Sides, with_rows


def parts_of(sides: Sides, only: str | None = None) -> Iterator[Part]:
    """The parts, in the order in which a picture passes them; `only` one by its name. Raises CutError where one cannot be
    cut out."""
    spec = sides.spec
    makers: dict[str, Callable[[], Part]] = {}
    if spec.rpn is not None:
        makers["proposals"] = partial(_proposals, sides)
    if spec.box_head is not None:
        makers |= _proposal_heads(sides)
        makers["detections"] = partial(_detections, sides, spec.box_head)
    if spec.dense is not None:
        makers["detections"] = partial(_dense, sides)
    for head, pooler in spec.detection_poolers().items():
        name = f"pooling of the {head.value}s"
        makers[name] = partial(_pooling, sides, name, pooler)
    if spec.point_head is not None:
        makers |= point_parts(sides, spec.point_head)
    if spec.mask_head is not None:
        makers["masks"] = partial(_masks, sides)
    if spec.keypoint_head is not None:
        makers["heatmaps"] = partial(_heatmaps, sides)
    for name, make in makers.items():
        if only in (None, name):
            yield make()


def _level_ports(sides: Sides) -> list[Port]:
    found = []
    for index, level in enumerate(sides.spec.anchor_levels()):
        found += [sides.port(f"logits{index}", level.logits_tensor, parts.maps),
                  sides.port(f"deltas{index}", level.deltas_tensor, parts.maps)]  # fmt: skip
        sure = getattr(level, "centerness_tensor", None)
        if sure is not None:
            found.append(sides.port(f"centerness{index}", sure, parts.maps))
    return [*found, *sides.whole_canvas()]


def _proposals(sides: Sides) -> Part:
    rpn, values = sides.spec.rpn, sides.ctx.values
    assert rpn is not None
    feed = partial(probes.proposal_probes, sides.spec, rpn)
    if sides.spec.box_head is None:
        return _detected(sides, "proposals", _level_ports(sides), feed)
    made = {"boxes": rpn.proposals_tensor}
    if values.has("proposals"):
        made = {"boxes": values.proposals.boxes, "valid": values.proposals.valid}
    ends = {"boxes": rpn.proposals_tensor}, made
    return parts.Proposed("proposals", sides.graphs, _level_ports(sides), ends, feed)


def _dense(sides: Sides) -> Part:
    assert sides.spec.dense is not None
    feed = partial(probes.dense_probes, sides.spec, sides.spec.dense)
    return _detected(sides, "detections", _level_ports(sides), feed)


def _detected(sides: Sides, name: str, ports: Sequence[Port], feed: object) -> Part:
    outputs, results, image = sides.spec.outputs, sides.ctx.values.results, sides.spec.image
    tensors = {"boxes": outputs.boxes_tensor, "scores": outputs.scores_tensor, "classes": outputs.classes_tensor}
    file = {role: tensor for role, tensor in tensors.items() if tensor}
    build = file
    if Role.NUM_DETECTIONS in results:
        roles = {"number": Role.NUM_DETECTIONS, "boxes": Role.BOXES, "scores": Role.SCORES, "classes": Role.CLASSES}
        build = {name: results[role] for name, role in roles.items() if role in results}
    part = parts.Detected(name, sides.graphs, ports, (file, build), feed)  # type: ignore[arg-type]
    part.first = sides.spec.first_class
    part.logits = sides.spec.rpn is not None and sides.spec.box_head is None
    if sides.ctx.io.boxes == "normalized":
        part.scale = np.array([image.width, image.height] * 2, np.float32)
    return part


def _detections(sides: Sides, head: BoxHead) -> Part:
    spec, values = sides.spec, sides.ctx.values
    assert spec.box_pooler is not None
    scores = [*(stage.scores_tensor for stage in spec.cascade), head.scores_tensor]
    boxes = values.head_boxes
    number = sides.shape(boxes)[1]
    ports = [
        *(sides.port(f"scores{i}", name, parts.rows) for i, name in enumerate(scores)),
        sides.port("deltas", head.deltas_tensor, parts.rows),
        sides.site("boxes", boxes, parts.per_image, spec.box_pooler.boxes_tensor),
        *(Port("boxes", p.boxes_tensor, None, parts.rows) for p in spec.box_poolers()[:-1]),
        *([Port("scores0", head.logits_tensor, None, parts.rows)] if head.background_first else []),  # numbers classes by shape
        sides.site("boxes", values.proposals.valid, parts.valid),
        *sides.whole_canvas(),
    ]
    ports = [p if p.lay is not parts.rows else with_rows(p, sides.ctx.batch * number) for p in ports]
    return _detected(sides, "detections", ports, partial(probes.detection_probes, spec, head, number))


def _proposal_heads(sides: Sides) -> dict[str, Callable[[], Part]]:
    spec = sides.spec
    found: dict[str, Callable[[], Part]] = {}
    for number, pooler in enumerate(spec.box_poolers(), start=1):
        name = f"pooling of the boxes{f' of stage {number}' if spec.cascade else ''}"
        found[name] = partial(_pooling, sides, name, pooler)
        if number <= len(spec.cascade):
            name = f"boxes after stage {number}"
            found[name] = partial(_refinement, sides, name, number)
    return found


def _pooling(sides: Sides, name: str, pooler: Pooler) -> Part:
    boxes = sides.ctx.current(pooler.boxes_tensor)
    shapes = [(1, *sides.shape(sides.now(f))[1:]) for f in pooler.feature_tensors]
    ports = [
        sides.site("boxes", boxes, parts.per_image, pooler.boxes_tensor),
        *(sides.port(f"map{i}", tensor, parts.maps) for i, tensor in enumerate(pooler.feature_tensors)),
        *sides.whole_canvas(),
    ]
    ends = {"value": pooler.pooled_tensor}, {"value": sides.ctx.current(pooler.pooled_tensor)}
    feed = partial(map_probes.pooling_probes, sides.spec, pooler, shapes, sides.shape(boxes)[1])
    return parts.Valued(name, sides.graphs, ports, ends, feed)


def _refinement(sides: Sides, name: str, number: int) -> Part:
    spec = sides.spec
    stage, following = spec.cascade[number - 1], spec.box_poolers()[number].boxes_tensor
    boxes = sides.ctx.current(stage.pooler.boxes_tensor)
    rows = sides.shape(boxes)[1]
    ports = [
        sides.site("boxes", boxes, parts.per_image, stage.pooler.boxes_tensor),
        with_rows(sides.port("deltas", stage.deltas_tensor, parts.rows), sides.ctx.batch * rows),
        *sides.whole_canvas(),
    ]
    ends = {"value": following}, {"value": sides.ctx.current(following)}
    return parts.Moved(name, sides.graphs, ports, ends, partial(map_probes.refinement_probes, spec, stage, rows))


def _masks(sides: Sides) -> Part:
    spec, results = sides.spec, sides.ctx.values.results
    assert spec.mask_head is not None
    number = sides.shape(results[Role.CLASSES])[1]
    first = spec.first_class
    channels = 1 if spec.mask_head.class_agnostic else (spec.num_classes or 1) + first
    logits = sides.port("logits", spec.mask_head.logits_tensor, parts.rows)
    if spec.point_head is not None and channels > 1:  # whose class was picked at each point
        picked = Port("picked", None, logits.build, parts.rows, logits.shape)
        logits = Port("logits", logits.file, None, parts.rows)
    ports = [
        with_rows(logits, sides.ctx.batch * number),
        *([with_rows(picked, sides.ctx.batch * number)] if logits.build is None else []),
        sides.site("classes", results[Role.CLASSES], partial(parts.classes, first=first), spec.outputs.classes_tensor),
        Port("boxes", spec.outputs.boxes_tensor, None, parts.rows),  # only their number is read
    ]
    ends = {"value": spec.outputs.masks_tensor or ""}, {"value": results[Role.MASKS]}
    part = parts.Masked("masks", sides.graphs, ports, ends, partial(map_probes.mask_probes, spec, channels, number, first))
    return part


def _heatmaps(sides: Sides) -> Part:
    spec, results = sides.spec, sides.ctx.values.results
    assert spec.keypoint_head is not None
    number = sides.shape(results[Role.CLASSES])[1]
    logits = with_rows(sides.port("logits", spec.keypoint_head.logits_tensor, parts.rows), sides.ctx.batch * number)
    ends = {"value": spec.outputs.heatmaps_tensor or ""}, {"value": results[Role.HEATMAPS]}
    return parts.Valued("heatmaps", sides.graphs, [logits], ends, partial(map_probes.heatmap_probes, spec, number))
