"""Kinds of changes that forks and users make in and behind the heads of a detector."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from campaigns.mutants.changing import changing
from campaigns.mutants.edit import Edit, NoPlaceError, made_by, value

BRANCHES = ("else_branch", "then_branch")


@changing("a class filter")
def class_filter(edit: Edit) -> None:
    own = edit.end("Equal", edit.output("classes"), np.int64(edit.chance.randrange(3)), dtype=np.bool_)
    keep = edit.end("Not", own, dtype=np.bool_) if edit.chance.random() < 0.5 else own
    edit.rows(edit.where(keep))


@changing("an area filter")
def area_filter(edit: Edit) -> None:
    boxes = edit.output("boxes")
    a, b, c, d = (edit.column(boxes, i) for i in range(4))
    area = edit.end("Mul", edit.end("Sub", c, a), edit.end("Sub", d, b))
    edit.rows(edit.where(edit.end("Greater", area, np.float32(edit.chance.choice([300, 2000])), dtype=np.bool_)))


@changing("a filter of wide boxes")
def wide_filter(edit: Edit) -> None:
    boxes = edit.output("boxes")
    width = edit.end("Sub", edit.column(boxes, 2), edit.column(boxes, 0))
    edit.rows(edit.where(edit.end("Greater", width, np.float32(edit.chance.choice([8, 30])), dtype=np.bool_)))


@changing("a filter of scores")
def score_filter(edit: Edit) -> None:
    edit.rows(
        edit.where(edit.end("Greater", edit.output("scores"), np.float32(edit.chance.choice([0.1, 0.3])), dtype=np.bool_))
    )


@changing("a filter by place")
def place_filter(edit: Edit) -> None:
    right = edit.column(edit.output("boxes"), 2)
    edit.rows(edit.where(edit.end("Less", right, np.float32(200), dtype=np.bool_)))


@changing("the first few alone")
def first_few(edit: Edit) -> None:
    number = edit.chance.choice([3, 10, 50])
    for role, old in edit.outputs().items():
        if role != "semantic":
            edit.behind(old, "Slice", np.array([0]), np.array([number]), np.array([0]), shape=["few", *list(old.shape)[1:]])


@changing("without the first few")
def last_few(edit: Edit) -> None:
    for role, old in edit.outputs().items():
        if role != "semantic":
            edit.behind(old, "Slice", np.array([2]), np.array([2**62]), np.array([0]), shape=["few", *list(old.shape)[1:]])


@changing("every other row")
def every_other(edit: Edit) -> None:
    for role, old in edit.outputs().items():
        if role != "semantic":
            edit.behind(old, "Slice", np.array([0]), np.array([2**62]), np.array([0]), np.array([2]),
                        shape=["few", *list(old.shape)[1:]])  # fmt: skip


@changing("rows of one output reversed")
def reversed_rows(edit: Edit) -> None:
    role = edit.pick([r for r in edit.outputs() if r != "semantic"])
    edit.behind(edit.output(role), "Slice", np.array([-1]), np.array([-(2**62)]), np.array([0]), np.array([-1]))


@changing("rows of all outputs reversed")
def all_reversed(edit: Edit) -> None:
    for role, old in edit.outputs().items():
        if role != "semantic":
            edit.behind(old, "Slice", np.array([-1]), np.array([-(2**62)]), np.array([0]), np.array([-1]))


@changing("columns in another order")
def columns(edit: Edit) -> None:
    order = edit.chance.choice([[1, 0, 3, 2], [0, 2, 1, 3], [2, 3, 0, 1]])
    edit.behind(edit.output("boxes"), "Gather", np.array(order), axis=1)


@changing("boxes as corner and size")
def corner_and_size(edit: Edit) -> None:
    boxes = edit.output("boxes")
    low, high = (edit.end("Slice", boxes, np.array([a]), np.array([a + 2]), np.array([1])) for a in (0, 2))
    edit.instead(
        boxes, edit.make(edit.graph, None, "Concat", [low, edit.end("Sub", high, low)], np.float32, boxes.shape, axis=1)
    )


@changing("normalised boxes")
def normalised(edit: Edit) -> None:
    edit.behind(edit.output("boxes"), "Div", np.array([[320, 256, 320, 256]], np.float32))


@changing("boxes scaled behind the head")
def scaled_boxes(edit: Edit) -> None:
    edit.behind(edit.output("boxes"), "Mul", np.float32(edit.chance.choice([1.1, 0.5])))


@changing("rounded boxes")
def rounded(edit: Edit) -> None:
    edit.behind(edit.output("boxes"), "Round")


@changing("boxes clipped tighter")
def tighter(edit: Edit) -> None:
    edit.behind(edit.output("boxes"), "Clip", np.float32(0), np.float32(edit.chance.choice([150, 250])))


@changing("boxes clipped at one")
def clipped_at_one(edit: Edit) -> None:
    edit.behind(edit.output("boxes"), "Clip", np.float32(1), np.float32(1e6))


@changing("scores calibrated")
def calibrated(edit: Edit) -> None:
    op, *more = edit.chance.choice([("Sqrt",), ("Mul", np.float32(0.9)), ("Pow", np.float32(1.5)), ("Sigmoid",)])
    edit.behind(edit.output("scores"), op, *more)


@changing("scores as percent")
def percent(edit: Edit) -> None:
    edit.behind(edit.output("scores"), "Mul", np.float32(100))


@changing("classes counted from one")
def from_one(edit: Edit) -> None:
    edit.behind(edit.output("classes"), "Add", np.int64(1))


@changing("classes by a table")
def by_table(edit: Edit) -> None:
    table = list(range(2000))
    a, b = edit.chance.sample(range(4), 2)
    table[a], table[b] = table[b], table[a]
    classes = edit.output("classes")
    edit.instead(classes, edit.make(edit.graph, None, "Gather", [np.array(table), classes], np.int64, classes.shape, axis=0))


@changing("a second suppression")
def second_suppression(edit: Edit) -> None:
    boxes, scores = edit.output("boxes"), edit.output("scores")
    lifted = edit.end("Unsqueeze", boxes, np.array([0]))
    twice = edit.end("Unsqueeze", scores, np.array([0, 1]))
    threshold = np.array([edit.chance.choice([0.3, 0.5])], np.float32)
    found = edit.end("NonMaxSuppression", lifted, twice, np.array([2**62]), threshold, dtype=np.int64)
    edit.rows(edit.end("Squeeze", edit.end("Slice", found, np.array([2]), np.array([3]), np.array([1]), dtype=np.int64),
                       np.array([1]), dtype=np.int64))  # fmt: skip


@changing("sorted by place")
def sorted_by_place(edit: Edit) -> None:
    left = edit.column(edit.output("boxes"), 0)
    number = edit.end("Shape", left, dtype=np.int64)
    _, index = edit.make(edit.graph, None, "TopK", [left, number], np.float32, outputs=2, axis=0)
    index.dtype = np.dtype(np.int64)
    edit.rows(index)


@changing("a suppression across classes or levels")
def agnostic(edit: Edit) -> None:
    found = []
    for graph, nms in edit.owned("NonMaxSuppression"):
        tensor = nms.inputs[0]
        while (node := made_by(tensor)) is not None and node.op in ("Unsqueeze", "Reshape", "Identity", "Cast"):
            tensor = node.inputs[0]
        if node is not None and node.op == "Add":
            found.append((graph, node))
    _, add = edit.pick(found)
    boxes = next((i for i, t in enumerate(add.inputs) if made_by(t) is None or made_by(t).op not in ("Unsqueeze", "Mul")), 0)
    for _, reader in list(edit.owned()):
        for index, tensor in enumerate(reader.inputs):
            if tensor is add.outputs[0]:
                reader.inputs[index] = add.inputs[boxes]
    edit.tell(f"the suppression reads what {add.name!r} reads")


@changing("the background first")
def background_first(edit: Edit) -> None:
    node = edit.node("Slice", where=lambda n: (held := value(n.inputs[2])) is not None and held.size == 1
                     and int(held.reshape(-1)[0]) == -1)  # fmt: skip
    edit.set(node, 1, [1], np.int64)
    edit.set(node, 2, [2**62], np.int64)


@changing("one more condition")
def one_more_condition(edit: Edit) -> None:
    node = edit.node("And", "NonZero", where=lambda n: n.inputs[0].dtype == np.bool_ and value(n.inputs[0]) is None)
    graph = next(g for g, n in edit.owned(node.op) if n is node)
    comparison = edit.pick(
        [n for n in graph.nodes if n.op in ("Greater", "GreaterOrEqual") and n.inputs and value(n.inputs[0]) is None]
    )
    moved = edit.make(
        graph, node, "Greater", [comparison.inputs[0], np.float32(edit.chance.choice([0.2, 10.0, 25.0]))], np.bool_
    )
    node.inputs[0] = edit.make(graph, node, "And", [node.inputs[0], moved], np.bool_, node.inputs[0].shape)
    edit.tell(f"{node.op} {node.name!r} also asks what {comparison.name!r} compares")


@changing("one condition alone")
def one_condition(edit: Edit) -> None:
    node = edit.node("And")
    edit.bypass(node, edit.chance.randrange(2))


@changing("another rule for levels")
def level_rule(edit: Edit) -> None:
    places = list(edit.edges(ops=("Floor",)))
    edit.put(edit.pick(places), "Add", np.float32(edit.chance.choice([-0.5, 0.2, 1.0])))


@changing("one level pooled from another's map")
def other_map(edit: Edit) -> None:
    nodes = edit.nodes("RoiAlign")
    node, other = edit.pick(nodes), edit.pick(nodes)
    if node is other or node.inputs[0] is other.inputs[0]:
        raise NoPlaceError
    node.inputs[0] = other.inputs[0]
    edit.tell(f"RoiAlign {node.name!r} reads the map of {other.name!r}")


def _linear(edit: Edit) -> tuple[gs.Graph, gs.Node]:
    return edit.pick([(g, n) for g, n in edit.owned("Gemm", "MatMul", "Conv", "ConvTranspose")
                      if n.outputs[0].dtype is not None and len(n.outputs[0].shape or ()) in (2, 4)])  # fmt: skip


def _behind_node(edit: Edit, graph: gs.Graph, node: gs.Node, op: str, *more: object, **attrs: object) -> gs.Tensor:
    """Put a node behind the output of another, for all its readers."""
    old = node.outputs[0]
    at = next(i for i, n in enumerate(graph.nodes) if n is node) + 1
    following = graph.nodes[at] if at < len(graph.nodes) else None
    new = edit.make(graph, following, op, [old, *more], old.dtype, old.shape, **attrs)
    maker = new.inputs[0]
    for _, reader in list(edit.owned()):
        for index, tensor in enumerate(reader.inputs):
            if tensor is old and reader is not maker:
                reader.inputs[index] = new
    for held in edit.graphs():
        held.outputs[:] = [new if t is old else t for t in held.outputs]
    edit.tell(f"{op} behind {node.op} {node.name!r}")
    return new


@changing("a temperature on a layer")
def temperature(edit: Edit) -> None:
    _behind_node(edit, *_linear(edit), "Mul", np.float32(edit.chance.choice([0.7, 1.3])))


@changing("a head that mixes rows by their mean")
def mean_of_rows(edit: Edit) -> None:
    graph, node = edit.pick([(g, n) for g, n in edit.owned("Gemm", "MatMul") if len(n.outputs[0].shape or ()) == 2])
    old = node.outputs[0]
    at = next(i for i, n in enumerate(graph.nodes) if n is node) + 1
    newer = edit.graph.opset >= 18  # axes became an input
    inputs, more = ([old, np.array([0])], {}) if newer else ([old], {"axes": [0]})
    mean = edit.make(graph, graph.nodes[at], "ReduceMean", inputs, old.dtype, [1, old.shape[1]], keepdims=1, **more)
    readers = [(r, i) for _, r in edit.owned() for i, t in enumerate(r.inputs) if t is old and r is not mean.inputs[0]]
    new = edit.make(graph, graph.nodes[at + 1], "Sub", [old, mean], old.dtype, old.shape)
    for reader, index in readers:
        reader.inputs[index] = new
    edit.tell(f"the mean of rows taken off {node.name!r}")


@changing("a head that mixes rows by attention")
def attention(edit: Edit) -> None:
    graph, node = edit.pick([(g, n) for g, n in edit.owned("Gemm", "MatMul") if len(n.outputs[0].shape or ()) == 2])
    old = node.outputs[0]
    at = graph.nodes[next(i for i, n in enumerate(graph.nodes) if n is node) + 1]
    turned = edit.make(graph, at, "Transpose", [old], old.dtype, perm=[1, 0])
    product = edit.make(graph, at, "MatMul", [old, turned], old.dtype)
    shares = edit.make(
        graph, at, "Softmax", [edit.make(graph, at, "Mul", [product, np.float32(0.01)], old.dtype)], old.dtype, axis=1
    )
    new = edit.make(graph, at, "MatMul", [shares, old], old.dtype, old.shape)
    made = {id(t.inputs[0]) for t in (turned, product, shares, new)}
    for _, reader in list(edit.owned()):
        for index, tensor in enumerate(reader.inputs):
            if tensor is old and id(reader) not in made:
                reader.inputs[index] = new
    edit.tell(f"rows of {node.name!r} attend to one another")


@changing("heatmaps changed behind their head")
def heatmaps(edit: Edit) -> None:
    old = edit.output("heatmaps")
    way = edit.chance.randrange(4) if isinstance(list(old.shape)[1], int) else 0
    if way == 0:
        edit.behind(old, "Mul", np.float32(2))
    elif way == 1:
        edit.behind(old, "Gather", np.arange(list(old.shape)[1])[::-1].copy(), axis=1)
    elif way == 2:
        edit.behind(old, "Transpose", perm=[0, 1, 3, 2])
    else:
        edit.behind(old, "Slice", np.array([-1]), np.array([-(2**62)]), np.array([0]), np.array([-1]))


@changing("masks changed behind their head")
def masks(edit: Edit) -> None:
    old = edit.output("masks")
    way = edit.chance.randrange(4)
    if way == 0:
        half = edit.end("Greater", old, np.float32(0.5), dtype=np.bool_)
        edit.instead(old, edit.make(edit.graph, None, "Cast", [half], np.float32, old.shape, to=1))
    elif way == 1:
        edit.behind(old, "Transpose", perm=[0, 1, 3, 2])
    elif way == 2:
        edit.behind(old, "Slice", np.array([-1]), np.array([-(2**62)]), np.array([3]), np.array([-1]))
    else:
        edit.behind(old, "Mul", np.float32(0.5))


@changing("semantic logits changed behind their head")
def semantic(edit: Edit) -> None:
    old = edit.output("semantic")
    way, classes = edit.chance.randrange(4), 1 if len(old.shape) == 4 else 0
    if way == 0:
        edit.behind(old, "Softmax", axis=classes)
    elif way == 1:
        edit.behind(old, "Slice", np.array([-1]), np.array([-(2**62)]), np.array([classes]), np.array([-1]))
    elif way == 2:
        edit.behind(old, "Slice", np.array([-1]), np.array([-(2**62)]), np.array([-1]), np.array([-1]))
    else:
        edit.behind(old, "Mul", np.float32(3))


@changing("a threshold of each class")
def class_thresholds(edit: Edit) -> None:
    node, index = edit.pick([(n, i) for n, i in edit.constants(("Greater",)) if len(n.inputs[0].shape or ()) == 2
                             and isinstance(n.inputs[0].shape[1], int) and n.inputs[0].shape[1] > 1])  # fmt: skip
    number, width = float(value(node.inputs[index]).reshape(-1)[0]), node.inputs[0].shape[1]
    edit.set(node, index, number * (1 + 2 * (np.arange(width, dtype=np.float32) % 2)))


@changing("fewer proposals")
def fewer_proposals(edit: Edit) -> None:
    node = edit.node("Slice", where=lambda n: (held := value(n.inputs[2])) is not None and held.size == 1
                     and 50 <= int(held.reshape(-1)[0]) <= 5000)  # fmt: skip
    edit.set(node, 2, value(node.inputs[2]) // edit.chance.choice([2, 10]))


@changing("the whole canvas as one more proposal")
def one_more_proposal(edit: Edit) -> None:
    places = [
        p
        for p in edit.edges(ops=("Concat",))
        if p[2] == 1 and len(p[1].inputs) == 2 and list(p[1].inputs[1].shape or ())[1:] == [4]
    ]
    graph, node, index = edit.pick(places)
    old = node.inputs[index]
    rolled = edit.make(graph, node, "Mul", [old, np.array([[1.0, 1.0, 1.02, 1.0]], np.float32)], old.dtype, old.shape)
    node.inputs[index] = rolled
    edit.tell(f"boxes of {node.name!r} enlarged to one side")


@changing("the image's channels turned round")
def channels(edit: Edit) -> None:
    image = edit.graph.inputs[0]
    readers = [(n, i) for n in edit.graph.nodes for i, t in enumerate(n.inputs) if t is image and n.op != "Shape"]
    new = edit.make(edit.graph, edit.graph.nodes[0], "Gather", [image, np.array([2, 1, 0])], np.float32, image.shape, axis=0)
    for node, index in readers:
        node.inputs[index] = new
    edit.tell("channels turned round")


@changing("a picture's gamma")
def gamma(edit: Edit) -> None:
    image = edit.graph.inputs[0]
    readers = [(n, i) for n in edit.graph.nodes for i, t in enumerate(n.inputs) if t is image and n.op != "Shape"]
    new = edit.make(edit.graph, edit.graph.nodes[0], "Pow", [image, np.float32(0.98)], np.float32, image.shape)
    for node, index in readers:
        node.inputs[index] = new
    edit.tell("the image to the power of 0.98")


@changing("a picture turned round")
def mirrored(edit: Edit) -> None:
    image = edit.graph.inputs[0]
    readers = [(n, i) for n in edit.graph.nodes for i, t in enumerate(n.inputs) if t is image and n.op != "Shape"]
    turned = [image, np.array([-1]), np.array([-(2**62)]), np.array([2]), np.array([-1])]
    new = edit.make(edit.graph, edit.graph.nodes[0], "Slice", turned, np.float32, image.shape)
    for node, index in readers:
        node.inputs[index] = new
    edit.tell("the image mirrored")
