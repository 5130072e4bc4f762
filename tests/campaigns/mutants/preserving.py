"""Kinds of changes that leave a graph's answers as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from campaigns.mutants.edit import Edit, NoPlaceError, Place, value

Kind = Callable[[Edit], None]
PRESERVING: dict[str, Kind] = {}
SWAPPED = {"Greater": "Less", "Less": "Greater", "GreaterOrEqual": "LessOrEqual", "LessOrEqual": "GreaterOrEqual"}
NEGATED = {"Greater": "LessOrEqual", "Less": "GreaterOrEqual", "GreaterOrEqual": "Less", "LessOrEqual": "Greater"}


def preserving(name: str) -> Callable[[Kind], Kind]:
    def add(kind: Kind) -> Kind:
        PRESERVING[name] = kind
        return kind

    return add


def _edge(edit: Edit, ranks: tuple[int, ...] = (1, 2, 3, 4, 5), floating: bool = True) -> Place:
    return edit.pick([p for p in edit.edges(floating) if len(p[1].inputs[p[2]].shape or ()) in ranks])


def _neutral(name: str, op: str, *more: object, **attrs: object) -> None:
    @preserving(name)
    def kind(edit: Edit) -> None:
        edit.put(_edge(edit), op, *more, **attrs)


_neutral("times one", "Mul", np.float32(1))
_neutral("divided by one", "Div", np.float32(1))
_neutral("plus nothing", "Add", np.float32(0))
_neutral("minus nothing", "Sub", np.float32(0))
_neutral("to the power of one", "Pow", np.float32(1))
_neutral("an identity", "Identity")
_neutral("a dropout", "Dropout")
_neutral("wide bounds", "Clip", np.float32(-3e38), np.float32(3e38))


@preserving("the larger of a tensor and itself")
def itself(edit: Edit) -> None:
    graph, node, index = _edge(edit)
    old = node.inputs[index]
    node.inputs[index] = edit.make(graph, node, edit.chance.choice(["Max", "Min"]), [old, old], old.dtype, old.shape)


@preserving("doubled and halved")
def doubled(edit: Edit) -> None:
    place = _edge(edit)
    edit.put(place, "Mul", np.float32(2))
    edit.put(place, "Mul", np.float32(0.5))


@preserving("negated twice")
def negated_twice(edit: Edit) -> None:
    place = _edge(edit)
    edit.put(place, "Neg")
    edit.put(place, "Neg")


@preserving("turned and turned back")
def transposed(edit: Edit) -> None:
    graph, node, index = place = _edge(edit, (2, 3, 4))
    rank = len(node.inputs[index].shape)
    order = list(range(rank))
    edit.chance.shuffle(order)
    old = node.inputs[index]
    turned = edit.make(graph, node, "Transpose", [old], old.dtype, perm=order)
    node.inputs[index] = edit.make(
        graph, node, "Transpose", [turned], old.dtype, old.shape, perm=[int(i) for i in np.argsort(order)]
    )
    edit.tell(f"transposed twice in front of {place[1].name!r}")


@preserving("cast and cast back")
def cast(edit: Edit) -> None:
    graph, node, index = _edge(edit)
    old = node.inputs[index]
    wide = edit.make(graph, node, "Cast", [old], np.float64, old.shape, to=11)
    node.inputs[index] = edit.make(graph, node, "Cast", [wide], np.float32, old.shape, to=1)


@preserving("an axis more and less")
def unsqueezed(edit: Edit) -> None:
    graph, node, index = _edge(edit)
    old = node.inputs[index]
    axis = np.array([edit.chance.randrange(len(old.shape) + 1)])
    more = edit.make(graph, node, "Unsqueeze", [old, axis], old.dtype)
    node.inputs[index] = edit.make(graph, node, "Squeeze", [more, axis], old.dtype, old.shape)


@preserving("reshaped to what it is")
def reshaped(edit: Edit) -> None:
    graph, node, index = _edge(edit)
    old = node.inputs[index]
    node.inputs[index] = edit.make(graph, node, "Reshape", [old, np.zeros(len(old.shape), np.int64)], old.dtype, old.shape)


@preserving("flat and back")
def flat(edit: Edit) -> None:
    graph, node, index = _edge(edit)
    old = node.inputs[index]
    if not all(isinstance(d, int) for d in list(old.shape)[1:]):
        raise NoPlaceError
    whole = edit.make(graph, node, "Reshape", [old, np.array([-1])], old.dtype, [None])
    node.inputs[index] = edit.make(graph, node, "Reshape", [whole, np.array([-1, *list(old.shape)[1:]])], old.dtype, old.shape)


@preserving("a slice of everything")
def whole_slice(edit: Edit) -> None:
    graph, node, index = _edge(edit)
    axis = np.array([edit.chance.randrange(len(node.inputs[index].shape))])
    edit.put((graph, node, index), "Slice", np.array([0]), np.array([2**62]), axis, np.array([1]))


@preserving("split and joined")
def split(edit: Edit) -> None:
    graph, node, index = _edge(edit, (2, 3, 4))
    old = node.inputs[index]
    axis = len(old.shape) - 1
    if not isinstance(old.shape[axis], int) or old.shape[axis] < 2:
        raise NoPlaceError
    sizes = np.array([1, old.shape[axis] - 1])
    parts = edit.make(graph, node, "Split", [old, sizes], old.dtype, outputs=2, axis=axis)
    node.inputs[index] = edit.make(graph, node, "Concat", parts, old.dtype, old.shape, axis=axis)


@preserving("reversed and reversed back")
def reversed_twice(edit: Edit) -> None:
    place = _edge(edit)
    axis = np.array([edit.chance.randrange(len(place[1].inputs[place[2]].shape))])
    for _ in range(2):
        edit.put(place, "Slice", np.array([-1]), np.array([-(2**62)]), axis, np.array([-1]))


@preserving("padded by nothing")
def padded(edit: Edit) -> None:
    place = _edge(edit)
    edit.put(place, "Pad", np.zeros(2 * len(place[1].inputs[place[2]].shape), np.int64))


@preserving("operands of a sum swapped")
def commuted(edit: Edit) -> None:
    node = edit.node("Add", "Mul", "And", "Or", "Equal")
    node.inputs = list(node.inputs)[::-1]
    edit.tell(f"{node.op} {node.name!r} with operands swapped")


@preserving("a comparison the other way round")
def comparison(edit: Edit) -> None:
    node = edit.node(*SWAPPED)
    node.op, node.inputs = SWAPPED[node.op], list(node.inputs)[::-1]
    edit.tell(f"{node.name!r} is {node.op}")


@preserving("a comparison as not its opposite")
def opposite(edit: Edit) -> None:
    graph, node = edit.pick(list(edit.owned(*NEGATED)))
    node.op = NEGATED[node.op]
    old = node.outputs[0]
    inner = gs.Variable(edit.fresh("opposite"), np.bool_, old.shape)
    node.outputs = [inner]
    at = next(i for i, n in enumerate(graph.nodes) if n is node) + 1
    graph.nodes.insert(at, gs.Node("Not", edit.fresh("not"), {}, [inner], [old]))
    edit.tell(f"{node.name!r} is {node.op} and a Not")


@preserving("a clip as the larger and the smaller")
def clip_as_bounds(edit: Edit) -> None:
    graph, node = edit.pick([(g, n) for g, n in edit.owned("Clip") if len(n.inputs) == 3 and all(t.name for t in n.inputs)])
    low, high = node.inputs[1], node.inputs[2]
    if np.dtype(node.outputs[0].dtype or np.float32) != np.float32:
        raise NoPlaceError
    node.inputs = [edit.make(graph, node, "Max", [node.inputs[0], low], np.float32, node.outputs[0].shape), high]
    node.op = "Min"
    edit.tell(f"Clip {node.name!r} as Max and Min")


@preserving("a relu as the larger of it and nothing")
def relu(edit: Edit) -> None:
    node = edit.node("Relu")
    node.op, node.inputs = "Max", [node.inputs[0], gs.Constant(edit.fresh("nothing"), np.array(0, np.float32))]
    edit.tell(f"Relu {node.name!r} as Max")


@preserving("a difference as a sum")
def difference(edit: Edit) -> None:
    graph, node = edit.pick([(g, n) for g, n in edit.owned("Sub") if n.outputs[0].dtype == np.float32])
    held = value(node.inputs[1])
    if held is not None:
        negative: gs.Tensor = gs.Constant(edit.fresh("negative"), -held)
    else:
        negative = edit.make(graph, node, "Neg", [node.inputs[1]], np.float32, node.inputs[1].shape)
    node.op, node.inputs = "Add", [node.inputs[0], negative]
    edit.tell(f"Sub {node.name!r} as Add")


@preserving("a division as a product")
def division(edit: Edit) -> None:
    node = edit.node("Div", where=lambda n: (held := value(n.inputs[1])) is not None and held.dtype == np.float32
                     and bool(np.all(np.log2(np.abs(held)) % 1 == 0)))  # fmt: skip
    node.op = "Mul"
    edit.set(node, 1, 1 / value(node.inputs[1]))


@preserving("one column by a slice")
def gather_as_slice(edit: Edit) -> None:
    columns = [(g, n) for g, n in edit.owned("Gather") if value(n.inputs[0]) is None and n.outputs[0].dtype == np.float32]
    graph, node = edit.pick([(g, n) for g, n in columns if (held := value(n.inputs[1])) is not None and held.ndim == 0
                             and int(held) >= 0])  # fmt: skip
    axis, index = np.array([node.attrs.get("axis", 0)]), int(value(node.inputs[1]))
    one = edit.make(graph, node, "Slice", [node.inputs[0], np.array([index]), np.array([index + 1]), axis], np.float32)
    node.op, node.attrs, node.inputs = "Squeeze", {}, [one, gs.Constant(edit.fresh("axis"), axis)]
    edit.tell(f"Gather {node.name!r} as Slice and Squeeze")


@preserving("an axis counted from the end")
def from_the_end(edit: Edit) -> None:
    node = edit.node("Gather", "Concat", "Softmax", where=lambda n: n.attrs.get("axis", -1) >= 0 and bool(n.outputs[0].shape)
                     and (n.op != "Gather" or bool(n.inputs[0].shape)))  # fmt: skip
    rank = len((node.inputs[0] if node.op == "Gather" else node.outputs[0]).shape)
    node.attrs["axis"] = node.attrs["axis"] - rank
    edit.tell(f"{node.op} {node.name!r} axis {node.attrs['axis']}")


@preserving("constants as nodes")
def constants_as_nodes(edit: Edit) -> None:
    changed = 0
    for graph in edit.graphs():
        for node in list(graph.nodes):
            for index, tensor in enumerate(node.inputs):
                if isinstance(tensor, gs.Constant) and tensor.values.size < 64 and edit.chance.random() < 0.2:
                    new = gs.Variable(edit.fresh("held"), tensor.dtype, list(tensor.shape))
                    held = gs.Constant(edit.fresh("value"), np.array(tensor.values))
                    graph.nodes.insert(0, gs.Node("Constant", edit.fresh("constant"), {"value": held}, [], [new]))
                    node.inputs[index] = new
                    changed += 1
    if not changed:
        raise NoPlaceError
    edit.tell(f"{changed} constants as nodes")


@preserving("a node computed twice")
def twice(edit: Edit) -> None:
    graph, node, index = _edge(edit)
    maker = node.inputs[index].inputs[0] if node.inputs[index].inputs else None
    if maker is None or len(maker.outputs) != 1 or any(isinstance(v, gs.Graph) for v in maker.attrs.values()) \
            or all(n is not maker for n in graph.nodes):  # fmt: skip
        raise NoPlaceError
    old = node.inputs[index]
    node.inputs[index] = edit.make(graph, node, maker.op, list(maker.inputs), old.dtype, old.shape, **maker.attrs)
    edit.tell(f"{maker.op} {maker.name!r} computed twice")


@preserving("other names")
def other_names(edit: Edit) -> None:
    kept = {id(t) for t in (*edit.graph.inputs, *edit.graph.outputs)}
    number = 0
    for graph in edit.graphs():
        for node in graph.nodes:
            node.name = f"n{number}"
            for tensor in node.outputs:
                number += 1
                if id(tensor) not in kept:
                    tensor.name = f"t{number}"
    edit.tell("other names")


@preserving("nodes in another order")
def other_order(edit: Edit) -> None:
    nodes = list(edit.graph.nodes)
    makers = {id(t): n for n in nodes for t in n.outputs}

    def read(node: gs.Node) -> list[gs.Tensor]:
        inner = [held._foreign_tensors().values() for held in node.attrs.values() if isinstance(held, gs.Graph)]
        return [*node.inputs, *(t for tensors in inner for t in tensors)]

    waiting = {id(n): {id(makers[id(t)]) for t in read(n) if id(t) in makers} for n in nodes}
    placed: set[int] = set()
    order: list[gs.Node] = []
    left = list(nodes)
    while left:
        ready = [n for n in left[:200] if waiting[id(n)] <= placed] or [n for n in left if waiting[id(n)] <= placed]
        chosen = edit.chance.choice(ready)
        order.append(chosen)
        placed.add(id(chosen))
        left = [n for n in left if n is not chosen]
    edit.graph.nodes[:] = order
    edit.tell("nodes in another order")


@preserving("outputs in another order")
def other_outputs(edit: Edit) -> None:
    edit.chance.shuffle(edit.graph.outputs)
    edit.tell("outputs in another order")


@preserving("an output through an identity")
def output_identity(edit: Edit) -> None:
    edit.behind(edit.pick(list(edit.outputs().values())), "Identity")


@preserving("nodes that nothing reads")
def dead(edit: Edit) -> None:
    graph, node, index = _edge(edit)
    old = node.inputs[index]
    edit.make(graph, node, "NonZero", [edit.make(graph, node, "Greater", [old, np.float32(0.3)], np.bool_)], np.int64)
    edit.tell(f"a comparison of {old.name!r} that nothing reads")


@preserving("without shapes and types")
def no_shapes(edit: Edit) -> None:
    kept = {id(t) for t in (*edit.graph.inputs, *edit.graph.outputs)}
    for graph in edit.graphs():
        for node in graph.nodes:
            for tensor in node.outputs:
                if id(tensor) not in kept and isinstance(tensor, gs.Variable):
                    tensor.shape = None
    edit.tell("without shapes")


@preserving("a bias of its own")
def own_bias(edit: Edit) -> None:
    graph, node = edit.pick([(g, n) for g, n in edit.owned("Conv") if len(n.inputs) == 3 and value(n.inputs[2]) is not None
                             and n.outputs[0].dtype == np.float32])  # fmt: skip
    bias = np.array(value(node.inputs[2])).reshape(1, -1, 1, 1)
    node.inputs = list(node.inputs)[:2]
    old = node.outputs[0]
    inner = gs.Variable(edit.fresh("without_bias"), np.float32, old.shape)
    node.outputs = [inner]
    at = next(i for i, n in enumerate(graph.nodes) if n is node) + 1
    graph.nodes.insert(at, gs.Node("Add", edit.fresh("bias"), {}, [inner, gs.Constant(edit.fresh("bias"), bias)], [old]))
    edit.tell(f"Conv {node.name!r} with its bias in an Add")


@preserving("a linear layer as a product and a sum")
def gemm(edit: Edit) -> None:
    graph, node = edit.pick([(g, n) for g, n in edit.owned("Gemm") if len(n.inputs) == 3 and value(n.inputs[1]) is not None
                             and n.attrs.get("transB") and not n.attrs.get("transA")])  # fmt: skip
    product = edit.make(
        graph, node, "MatMul", [node.inputs[0], np.array(value(node.inputs[1]).T)], np.float32, node.outputs[0].shape
    )
    node.op, node.attrs, node.inputs = "Add", {}, [product, node.inputs[2]]
    edit.tell(f"Gemm {node.name!r} as MatMul and Add")


@preserving("a power as a root")
def root(edit: Edit) -> None:
    node = edit.node("Sqrt")
    node.op, node.inputs = "Pow", [node.inputs[0], gs.Constant(edit.fresh("half"), np.array(0.5, np.float32))]
    edit.tell(f"Sqrt {node.name!r} as Pow")


@preserving("a switch between equal things")
def switch(edit: Edit) -> None:
    graph, node, index = _edge(edit)
    old = node.inputs[index]
    condition = edit.make(graph, node, "Greater", [old, np.float32(0.1)], np.bool_, old.shape)
    node.inputs[index] = edit.make(graph, node, "Where", [condition, old, old], old.dtype, old.shape)


@preserving("indices of 32 bits and back")
def narrow(edit: Edit) -> None:
    indices = [p for p in edit.edges(floating=False, ops=("Gather", "GatherND")) if p[2] == 1]
    places = [p for p in indices if np.dtype(p[1].inputs[p[2]].dtype) == np.int64]
    graph, node, index = edit.pick(places)
    old = node.inputs[index]
    small = edit.make(graph, node, "Cast", [old], np.int32, old.shape, to=6)
    node.inputs[index] = edit.make(graph, node, "Cast", [small], np.int64, old.shape, to=7)


@preserving("a condition twice")
def condition(edit: Edit) -> None:
    places = [
        p for p in edit.edges(floating=False, ops=("And", "NonZero", "Or")) if np.dtype(p[1].inputs[p[2]].dtype) == np.bool_
    ]
    graph, node, index = edit.pick(places)
    old = node.inputs[index]
    node.inputs[index] = edit.make(graph, node, "And", [old, old], np.bool_, old.shape)
    edit.tell(f"a condition of {node.name!r} twice")
