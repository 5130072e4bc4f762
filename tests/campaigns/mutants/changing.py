"""Kinds of changes of what stands in a graph: constants, indices, operators, order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from campaigns.mutants.edit import Edit, NoPlaceError, made_by, value

Kind = Callable[[Edit], None]
CHANGING: dict[str, Kind] = {}
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max")
COMPARISONS = ("Greater", "Less", "GreaterOrEqual", "LessOrEqual")


def changing(name: str) -> Callable[[Kind], Kind]:
    def add(kind: Kind) -> Kind:
        CHANGING[name] = kind
        return kind

    return add


def _input(edit: Edit, op: str, index: int, kind: str = "i") -> tuple[gs.Node, np.ndarray]:
    """A node of a kind with a constant at an input."""
    node = edit.node(op, where=lambda n: len(n.inputs) > index and (held := value(n.inputs[index])) is not None
                     and held.dtype.kind == kind and held.size > 0)  # fmt: skip
    return node, np.array(value(node.inputs[index]))


@changing("a number scaled")
def number_scaled(edit: Edit) -> None:
    node, index = edit.pick(edit.constants(ARITHMETIC))
    edit.set(node, index, value(node.inputs[index]) * edit.chance.choice([0.5, 0.9, 1.1, 2.0, -1.0]))


@changing("a number moved")
def number_moved(edit: Edit) -> None:
    node, index = edit.pick(edit.constants(ARITHMETIC))
    edit.set(node, index, value(node.inputs[index]) + edit.chance.choice([-1.0, -0.1, 0.05, 0.5, 1.0]))


@changing("an element of a table")
def element(edit: Edit) -> None:
    node, index = edit.pick(edit.constants((*ARITHMETIC, "Gather", "Concat", "Expand"), 2, 5000))
    array = np.array(value(node.inputs[index]))
    at = edit.chance.randrange(array.size)
    array.reshape(-1)[at] = array.reshape(-1)[at] * 1.2 + 0.3
    edit.set(node, index, array)


@changing("a table scaled")
def table(edit: Edit) -> None:
    node, index = edit.pick(edit.constants((*ARITHMETIC, "Gather", "Concat", "Expand"), 2, 500_000))
    edit.set(node, index, value(node.inputs[index]) * edit.chance.choice([0.9, 1.05, 1.5]))


@changing("two elements of a table swapped")
def swapped(edit: Edit) -> None:
    node, index = edit.pick(edit.constants((*ARITHMETIC, "Gather", "Concat", "Expand"), 2, 5000))
    array = np.array(value(node.inputs[index]))
    a, b = edit.chance.sample(range(array.size), 2)
    flat = array.reshape(-1)
    flat[a], flat[b] = flat[b], flat[a]
    edit.set(node, index, array)


@changing("another threshold")
def threshold(edit: Edit) -> None:
    node, index = edit.pick(edit.constants(COMPARISONS))
    number = float(value(node.inputs[index]).reshape(-1)[0])
    new = number * edit.chance.choice([0.2, 0.8, 1.5, 4.0]) if number else edit.chance.choice([5.0, 20.0, 0.5, -1.0])
    edit.set(node, index, np.full_like(value(node.inputs[index]), new))


@changing("a clip's lower bound")
def clip_low(edit: Edit) -> None:
    node, array = _input(edit, "Clip", 1, "f")
    edit.set(node, 1, array + edit.chance.choice([0.5, 3.0, 10.0, -5.0]))


@changing("a clip's upper bound")
def clip_high(edit: Edit) -> None:
    node, array = _input(edit, "Clip", 2, "f")
    edit.set(node, 2, array * edit.chance.choice([0.7, 0.95, 1.1, 3.0]))


@changing("without a clip")
def no_clip(edit: Edit) -> None:
    edit.bypass(edit.node("Clip", where=lambda n: value(n.inputs[0]) is None))


@changing("an integer one more or less")
def integer(edit: Edit) -> None:
    node, index = edit.pick(edit.constants(("Gather", "Add", "Sub", "Mul", "Div", "TopK", "Min", "Max", "Clip", "Mod", "Equal",
                                            "ReduceSum", "ReduceMax", "Range"), kind="i"))  # fmt: skip
    edit.set(node, index, value(node.inputs[index]) + edit.chance.choice([-1, 1, 2]))


@changing("a slice's start")
def slice_start(edit: Edit) -> None:
    node, array = _input(edit, "Slice", 1)
    edit.set(node, 1, array + edit.chance.choice([1, 2, 5]))


@changing("a slice's end")
def slice_end(edit: Edit) -> None:
    node, array = _input(edit, "Slice", 2)
    edit.set(node, 2, np.where(array > 10**9, -1, array - edit.chance.choice([1, 2])))


@changing("a slice's step")
def slice_step(edit: Edit) -> None:
    node, array = _input(edit, "Slice", 4)
    edit.set(node, 4, np.full_like(array, 2))


@changing("a slice backwards")
def slice_back(edit: Edit) -> None:
    node, array = _input(edit, "Slice", 4)
    if array.size != 1:
        raise NoPlaceError
    start, end = value(node.inputs[1]), value(node.inputs[2])
    if start is None or end is None:
        raise NoPlaceError
    edit.set(node, 1, end - 1 if int(end.reshape(-1)[0]) < 10**9 else np.full_like(end, -1))
    low = int(start.reshape(-1)[0]) - 1
    edit.set(node, 2, np.full_like(end, low if low >= 0 else -(2**62)))
    edit.set(node, 4, np.full_like(array, -1))


@changing("a slice's axis")
def slice_axis(edit: Edit) -> None:
    node, array = _input(edit, "Slice", 3)
    edit.set(node, 3, np.where(array == 0, 1, 0))


@changing("another index gathered")
def gather_index(edit: Edit) -> None:
    node, array = _input(edit, "Gather", 1)
    at = edit.chance.randrange(array.size)
    array.reshape(-1)[at] = edit.chance.choice([i for i in range(5) if i != int(array.reshape(-1)[at])])
    edit.set(node, 1, array)


@changing("gathered in another order")
def gather_order(edit: Edit) -> None:
    node = edit.node("Gather", where=lambda n: (held := value(n.inputs[1])) is not None and held.size > 1)
    edit.set(node, 1, value(node.inputs[1])[..., ::-1])


@changing("gathered along another axis")
def gather_axis(edit: Edit) -> None:
    node = edit.node("Gather", where=lambda n: value(n.inputs[0]) is None and len(n.inputs[0].shape or ()) > 1)
    node.attrs["axis"] = 1 if node.attrs.get("axis", 0) == 0 else 0
    edit.tell(f"Gather {node.name!r} axis {node.attrs['axis']}")


@changing("fewer of a TopK")
def topk_fewer(edit: Edit) -> None:
    node = edit.node("TopK")
    k = value(node.inputs[1])
    if k is not None:
        edit.set(node, 1, np.maximum(k * edit.chance.choice([1, 3]) // 4, 1))
        return
    graph = next(g for g, n in edit.owned("TopK") if n is node)
    half = edit.make(graph, node, "Div", [node.inputs[1], np.array([2], np.int64)], np.int64, [1])
    node.inputs[1] = edit.make(graph, node, "Reshape", [half, np.array([1], np.int64)], np.int64, [1])
    edit.tell(f"TopK {node.name!r} keeps half")


@changing("more of a TopK")
def topk_more(edit: Edit) -> None:
    node, array = _input(edit, "TopK", 1)
    edit.set(node, 1, array + edit.chance.choice([1, 20, 100]))


@changing("the smallest of a TopK")
def topk_smallest(edit: Edit) -> None:
    node = edit.node("TopK")
    node.attrs["largest"] = 1 - node.attrs.get("largest", 1)
    edit.tell(f"TopK {node.name!r} largest {node.attrs['largest']}")


@changing("a strict comparison not strict")
def not_strict(edit: Edit) -> None:
    node = edit.node(*COMPARISONS)
    other = {"Greater": "GreaterOrEqual", "Less": "LessOrEqual", "GreaterOrEqual": "Greater", "LessOrEqual": "Less"}
    node.op = other[node.op]
    edit.tell(f"{node.name!r} is {node.op}")


@changing("a comparison turned round")
def turned(edit: Edit) -> None:
    node = edit.node("Greater", "Less")
    node.op = "Less" if node.op == "Greater" else "Greater"
    edit.tell(f"{node.name!r} is {node.op}")


@changing("and for or")
def and_or(edit: Edit) -> None:
    node = edit.node("And", "Or")
    node.op = edit.chance.choice([op for op in ("And", "Or", "Xor") if op != node.op])
    edit.tell(f"{node.name!r} is {node.op}")


@changing("not")
def negated(edit: Edit) -> None:
    places = [p for p in edit.edges(floating=False, ops=("And", "Or", "NonZero", "Where", "Cast"))
              if np.dtype(p[1].inputs[p[2]].dtype) == np.bool_]  # fmt: skip
    edit.put(edit.pick(places), "Not")


@changing("another operator of two")
def operator(edit: Edit) -> None:
    node = edit.node("Add", "Sub", "Mul", "Div", "Min", "Max")
    new = {"Add": "Sub", "Sub": "Add", "Mul": "Div", "Div": "Mul", "Min": "Max", "Max": "Min"}[node.op]
    edit.tell(f"{node.op} {node.name!r} is {new}")
    node.op = new


@changing("operands swapped")
def operands(edit: Edit) -> None:
    node = edit.node("Sub", "Div", "Greater", "Less", "Pow")
    node.inputs = list(node.inputs)[::-1]
    edit.tell(f"{node.op} {node.name!r} with operands swapped")


SIMILAR = {
    "Sqrt": ["Abs"], "Abs": ["Neg"], "Exp": ["Softplus", "Abs"], "Log": ["Sqrt"], "Floor": ["Ceil", "Round", "Identity"],
    "Ceil": ["Floor"], "Sigmoid": ["HardSigmoid", "Tanh", "Softsign"], "Relu": ["Abs", "Softplus", "LeakyRelu"],
    "Tanh": ["Sigmoid"], "Neg": ["Abs"], "Softmax": ["LogSoftmax"], "MaxPool": ["AveragePool"],
    "GlobalAveragePool": ["GlobalMaxPool"], "ReduceSum": ["ReduceMax"], "ReduceMax": ["ReduceSum"],
}  # fmt: skip


@changing("another function")
def function(edit: Edit) -> None:
    node = edit.node(*SIMILAR)
    new = edit.chance.choice(SIMILAR[node.op])
    edit.tell(f"{node.op} {node.name!r} is {new}")
    if node.op == "MaxPool":
        node.attrs = {k: v for k, v in node.attrs.items() if k in ("kernel_shape", "strides", "pads")}
    node.op = new


@changing("softmax along another axis")
def softmax_axis(edit: Edit) -> None:
    node = edit.node("Softmax")
    node.attrs["axis"] = 0
    edit.tell(f"Softmax {node.name!r} axis 0")


@changing("a node taken out")
def taken_out(edit: Edit) -> None:
    same = {"Relu", "Sigmoid", "Sqrt", "Floor", "Clip", "Exp", "Log", "Neg", "Abs", "Softmax", "Transpose", "Gather", "Slice",
            "ScatterND", "Where", "And", "Add", "Sub", "Mul", "Div", "GatherND", "BatchNormalization"}  # fmt: skip
    node = edit.node(*same, where=lambda n: value(n.inputs[0]) is None and n.inputs[0].dtype == n.outputs[0].dtype)
    edit.bypass(
        node, edit.chance.choice([0, 0, 0, 1]) if node.op in ("Add", "Mul", "And") and value(node.inputs[1]) is None else 0
    )


@changing("joined in another order")
def concat_order(edit: Edit) -> None:
    node = edit.node("Concat", where=lambda n: sum(value(t) is None for t in n.inputs) > 1)
    inputs = list(node.inputs)
    a, b = edit.chance.sample(range(len(inputs)), 2)
    inputs[a], inputs[b] = inputs[b], inputs[a]
    node.inputs = inputs
    edit.tell(f"Concat {node.name!r}: {a} and {b} swapped")


@changing("axes in another order")
def perm(edit: Edit) -> None:
    node = edit.node("Transpose", where=lambda n: len(n.attrs.get("perm", ())) > 1)
    order = list(node.attrs["perm"])
    a, b = edit.chance.sample(range(len(order)), 2)
    order[a], order[b] = order[b], order[a]
    node.attrs["perm"] = order
    edit.tell(f"Transpose {node.name!r} perm {order}")


@changing("one tensor read in place of another")
def other_tensor(edit: Edit) -> None:
    places = [p for p in edit.edges() if p[0] is edit.graph and p[1].inputs[p[2]].shape]
    graph, node, index = edit.pick(places)
    order = {id(n): i for i, n in enumerate(graph.nodes)}
    mine = node.inputs[index]
    made = [t for n in graph.nodes[: order[id(node)]] for t in n.outputs if t is not mine and t.dtype == mine.dtype
            and t.shape is not None and list(t.shape) == list(mine.shape)]  # fmt: skip
    node.inputs[index] = edit.pick(made[-6:] if edit.chance.random() < 0.5 else made)
    edit.tell(f"{node.op} {node.name!r} reads {node.inputs[index].name!r} for {mine.name!r}")


def _attribute(name: str, op: str, key: str, change: Callable[[Edit, gs.Node], object]) -> None:
    @changing(name)
    def kind(edit: Edit) -> None:
        node = edit.node(op)
        before, node.attrs[key] = node.attrs.get(key), change(edit, node)
        edit.tell(f"{op} {node.name!r} {key} {before} -> {node.attrs[key]}")


_attribute("another scale of a RoiAlign", "RoiAlign", "spatial_scale",
           lambda e, n: float(n.attrs["spatial_scale"]) * e.chance.choice([0.5, 0.9, 2.0]))  # fmt: skip
_attribute("another sampling of a RoiAlign", "RoiAlign", "sampling_ratio",
           lambda e, n: e.chance.choice([r for r in (0, 1, 2, 3) if r != n.attrs.get("sampling_ratio", 0)]))  # fmt: skip
_attribute("the highest sample of a RoiAlign", "RoiAlign", "mode", lambda e, n: "max")
_attribute("half a pixel of a RoiAlign", "RoiAlign", "coordinate_transformation_mode", lambda e, n: "output_half_pixel"
           if n.attrs.get("coordinate_transformation_mode", "half_pixel") == "half_pixel" else "half_pixel")  # fmt: skip
_attribute("centres in a suppression", "NonMaxSuppression", "center_point_box", lambda e, n: 1)
_attribute(
    "another mode of a Resize", "Resize", "mode", lambda e, n: "linear" if n.attrs.get("mode") == "nearest" else "nearest"
)
_attribute("other coordinates of a Resize", "Resize", "coordinate_transformation_mode",
           lambda e, n: e.chance.choice([m for m in ("asymmetric", "half_pixel", "align_corners")
                                         if m != n.attrs.get("coordinate_transformation_mode")]))  # fmt: skip
_attribute(
    "another rounding of a Resize",
    "Resize",
    "nearest_mode",
    lambda e, n: e.chance.choice([m for m in ("floor", "ceil", "round_prefer_ceil") if m != n.attrs.get("nearest_mode")]),
)


@changing("a convolution's padding moved")
def conv_pads(edit: Edit) -> None:
    node = edit.node("Conv", where=lambda n: len(set(n.attrs.get("pads", ()))) == 1 and n.attrs["pads"][0] > 0)
    p = node.attrs["pads"][0]
    node.attrs["pads"] = [p - 1, p - 1, p + 1, p + 1]
    edit.tell(f"Conv {node.name!r} pads {node.attrs['pads']}")


@changing("a convolution's dilation")
def conv_dilation(edit: Edit) -> None:
    node = edit.node("Conv", where=lambda n: n.attrs.get("kernel_shape") == [3, 3] and n.attrs.get("pads") == [1] * 4)
    node.attrs["dilations"], node.attrs["pads"] = [2, 2], [2] * 4
    edit.tell(f"Conv {node.name!r} dilated")


@changing("weights turned round")
def weights(edit: Edit) -> None:
    node = edit.node("Conv", "Gemm", "ConvTranspose", where=lambda n: value(n.inputs[1]) is not None)
    edit.set(node, 1, value(node.inputs[1])[..., ::-1])


@changing("a bias changed")
def bias(edit: Edit) -> None:
    node = edit.node("Conv", "Gemm", where=lambda n: len(n.inputs) > 2 and value(n.inputs[2]) is not None)
    edit.set(node, 2, value(node.inputs[2]) + 0.3)


@changing("a bound in a suppression")
def nms_most(edit: Edit) -> None:
    node = edit.node("NonMaxSuppression")
    edit.set(node, 2, [edit.chance.choice([3, 20, 90])], np.int64)


@changing("a score threshold in a suppression")
def nms_least(edit: Edit) -> None:
    node = edit.node("NonMaxSuppression")
    node.inputs = [
        *list(node.inputs)[:4],
        gs.Constant(edit.fresh("least"), np.array([edit.chance.choice([0.1, 0.3])], np.float32)),
    ]
    edit.tell(f"NonMaxSuppression {node.name!r} drops low scores")


@changing("another IoU threshold")
def nms_iou(edit: Edit) -> None:
    node, array = _input(edit, "NonMaxSuppression", 3, "f")
    edit.set(node, 3, np.clip(array + edit.chance.choice([-0.2, -0.05, 0.05, 0.3]), 0.01, 0.99))


@changing("what is padded in front of the network")
def pad_amounts(edit: Edit) -> None:
    node = edit.node("Pad", where=lambda n: value(n.inputs[1]) is not None)
    array = np.array(value(node.inputs[1])).reshape(-1)
    at = edit.chance.choice([len(array) // 2 - 1, len(array) - 1])
    array[at] += 1
    array[(at + len(array) // 2) % len(array)] -= 1
    edit.set(node, 1, array)


@changing("the value that is padded")
def pad_value(edit: Edit) -> None:
    node = edit.node("Pad")
    node.inputs = [
        *list(node.inputs)[:2],
        gs.Constant(edit.fresh("filling"), np.array(0.5, np.float32)),
        *list(node.inputs)[3:],
    ]
    edit.tell(f"Pad {node.name!r} fills 0.5")


@changing("an edge scaled")
def edge_scaled(edit: Edit) -> None:
    edit.put(edit.pick(edit.edges()), "Mul", np.float32(edit.chance.choice([0.8, 1.1])))


@changing("an edge moved")
def edge_moved(edit: Edit) -> None:
    edit.put(edit.pick(edit.edges()), "Add", np.float32(edit.chance.choice([-0.5, 0.1, 2.0])))


@changing("an edge bounded")
def edge_bounded(edit: Edit) -> None:
    edit.put(edit.pick(edit.edges()), "Clip", np.float32(0.02), np.float32(edit.chance.choice([0.5, 100.0])))


@changing("rows of an edge rolled")
def edge_rolled(edit: Edit) -> None:
    places = [p for p in edit.edges() if p[1].inputs[p[2]].shape and len(p[1].inputs[p[2]].shape) in (1, 2, 4)]
    graph, node, index = edit.pick(places)
    old = node.inputs[index]
    parts = [edit.make(graph, node, "Slice", [old, np.array([a]), np.array([b]), np.array([0])], old.dtype)
             for a, b in ((1, 2**62), (0, 1))]  # fmt: skip
    node.inputs[index] = edit.make(graph, node, "Concat", parts, old.dtype, old.shape, axis=0)
    edit.tell(f"rows of input {index} of {node.op} {node.name!r} rolled")


@changing("a scatter that is missing")
def no_scatter(edit: Edit) -> None:
    edit.bypass(edit.node("ScatterND", "ScatterElements"))


@changing("a filter that is missing")
def no_filter(edit: Edit) -> None:
    nonzero = edit.node("NonZero", where=lambda n: made_by(n.inputs[0]) is not None)
    condition = nonzero.inputs[0]
    graph = next(g for g, n in edit.owned("NonZero") if n is nonzero)
    true = edit.make(graph, nonzero, "Not", [condition], np.bool_, condition.shape)
    nonzero.inputs[0] = edit.make(graph, nonzero, "Or", [condition, true], np.bool_, condition.shape)
    edit.tell(f"NonZero {nonzero.name!r} of everything")
