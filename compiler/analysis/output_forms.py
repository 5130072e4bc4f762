"""Recognises boxes, classes, scores and masks that an export gives in another form than detectron2, and undoes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.counted_classes import counted_forms
from onnxgraft.analysis.decoded_keypoints import undo_decoding
from onnxgraft.analysis.pasted_masks import undo_pasting
from onnxgraft.analysis.provenance import selected_from
from onnxgraft.detector.output_forms import BOX_LAYOUTS, OutputForm
from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import RESHAPING
from onnxgraft.ir.traverse import node_inputs, producer, value

_AFFINE = RESHAPING | {"Add", "Sub", "Mul", "Div", "Neg", "Slice", "Split", "Gather", "Concat", "ScatterND", "Expand"}
_OF_SHAPES = frozenset({"Range", "ConstantOfShape", "Where", "Equal", "Mod"})  # of shapes and indices, never of what is held
_CHOICE = {"Gather": (1,), "Slice": (1, 2, 3, 4), "Split": (1,), "ScatterND": (1,), "Expand": (1,), "Reshape": (1,),
           "Squeeze": (1,), "Unsqueeze": (1,)}  # fmt: skip
"""Inputs that say where something goes, of which no box and no class may be a part: that is a table, or a filter."""
_ROWS = (24, 7, 2048)  # of what measures a form: more than any detector gives out, so that rows that are cut off show
_MOST = 2000  # classes that are tried: more than any detector has, and whole numbers in float16
_SAME = 2e-5  # of a column's numbers; float32 keeps 1e-7
_SIDE = 28  # cells of a mask, where the graph leaves it open
_FIRST = (0, 1)  # numbers that a first class has
_SEED = 12


def undo_forms(graph: Graph, *sizes: tuple[int, int]) -> tuple[OutputForm, ...]:
    """Let outputs of another form give way, in place, to the tensors that they are made of.

    A form is what is measured on the nodes between: boxes of another layout (`BOX_LAYOUTS`), or divided by the image's size;
    classes counted from 1, or of floating numbers; a batch axis in front of any of them; masks without their one channel; and
    keypoints of heatmaps and pasted masks. Anything else stays and is refused by the analysis of the detector.

    Args:
        graph: a simplified graph.
        sizes: height and width of the image, by which boxes may be divided.

    Raises:
        Refusal: classes are counted from another number; keypoints are decoded in another way.
    """
    found, before = [], list(graph.gs.outputs)
    for index, output in enumerate(graph.gs.outputs):
        taken = _undone(graph, output, sizes)
        if taken is not None and not any(taken[0] is other for other in graph.gs.outputs):
            source, form = taken
            if form.first not in _FIRST:
                raise Refusal(f"classes are counted from {form.first} here, where detectron2 counts from 0: export them as "
                              "they are, and name them afterwards", output.inputs[0].name)  # fmt: skip
            graph.gs.outputs[index] = source
            found += [] if form.plain else [form]
    if any(now is not was for now, was in zip(graph.gs.outputs, before, strict=True)):
        graph.cleanup()
    return (*found, *undo_decoding(graph), *(undo_pasting(graph, sizes[0]) if sizes else ()))


def hold_forms(forms: tuple[OutputForm, ...], spec: DetectorSpec) -> tuple[OutputForm, ...]:
    """The forms, all of outputs that the detector has, and the classes that it counts from 1, as it has its background first.

    Raises:
        Refusal: one is of an output that it does not have, which would no longer be what the file gives.
    """
    own = asdict(spec.outputs).values()
    for form in forms:
        if form.taken not in own:
            raise Refusal(f"output {form.given!r} gives {form} of what is none of the detector's outputs: leave it out of the "
                          "export", form.given)  # fmt: skip
    return counted_forms(forms, spec)


def _undone(graph: Graph, output: gs.Tensor, sizes: tuple[tuple[int, int], ...]) -> tuple[gs.Tensor, OutputForm] | None:
    shape = list(output.shape or ())
    if isinstance(output, gs.Constant) or not shape or output.dtype is None or producer(output) is None:
        return None
    floating = np.issubdtype(np.dtype(output.dtype), np.floating)
    for source in _sources(output):
        rank = len(source.shape or ())
        whole = source.dtype is not None and np.issubdtype(np.dtype(source.dtype), np.integer)
        form: OutputForm | None = None
        try:
            if floating and not whole and rank == 2 and _four(source) and _four(output):
                form = _box_form(graph, output, source, sizes)
            elif whole and rank == 1 and len(shape) <= 2:
                form = _class_form(graph, output, source)
            elif floating and not whole and rank == 1 and len(shape) == 2 and shape[0] == 1:
                form = _moved(graph, output, source, Role.SCORES, ())
            elif floating and not whole and rank == 4 and _one_channel(source) and len(shape) in (3, 5):
                form = _moved(graph, output, source, Role.MASKS, (1, *map(_side, source.shape[2:])))
        except (Refusal, ValueError, TypeError, LookupError):  # an operator that does not take such rows: no form
            continue
        if form is not None:
            same = form.plain and (not _four(output) or id(source) in selected_from(output))
            return None if same else (source, form)  # boxes whose columns are only joined again give way, too
    return None


def _sources(output: gs.Tensor) -> Iterator[gs.Tensor]:
    """Tensors of which alone, with constants, `output` is made by arithmetic that adds and scales; farthest first."""
    seen: list[gs.Tensor] = []
    queue = [output]
    while queue:
        tensor = queue.pop(0)
        node = producer(tensor)
        if node is None or not _takes(node):
            continue
        for read in node_inputs(node):
            if value(read) is None and all(read is not t for t in seen):
                seen.append(read)
                queue.append(read)
    yield from (t for t in reversed(seen) if _closed(output, t))


def _takes(node: gs.Node) -> bool:
    return not node.domain and (node.op in _AFFINE or node.op in _OF_SHAPES or node.op == "Shape")


def _closed(output: gs.Tensor, source: gs.Tensor) -> bool:
    """Whether everything between is such arithmetic, nothing else enters, and what `source` holds chooses nothing."""
    seen: set[int] = set()
    queue = [output]
    while queue:
        tensor = queue.pop()
        if tensor is source or value(tensor) is not None:
            continue
        node = producer(tensor)
        if node is None or not _takes(node):
            return False
        if id(node) not in seen:
            seen.add(id(node))
            read = node.inputs if node.op in _OF_SHAPES else [node.inputs[i] for i in _CHOICE.get(node.op, ())
                                                              if i < len(node.inputs)]  # fmt: skip
            if any(_holds(t, source) for t in read):
                return False
            queue += node_inputs(node)
    return True


def _holds(tensor: gs.Tensor, source: gs.Tensor) -> bool:
    """Whether a tensor is made of what `source` holds, and not of its shape alone."""
    seen: set[int] = set()
    queue = [tensor]
    while queue:
        held = queue.pop()
        if held is source:
            return True
        node = producer(held)
        if node is not None and node.op != "Shape" and id(node) not in seen:
            seen.add(id(node))
            queue += node_inputs(node)
    return False


def _four(tensor: gs.Tensor) -> bool:
    shape = list(tensor.shape or ())
    return len(shape) in (2, 3) and shape[-1] == 4 and (len(shape) == 2 or shape[0] == 1)


def _rows(tensor: gs.Tensor) -> tuple[int, ...]:
    first = tensor.shape[0] if tensor.shape else None
    return (int(first),) * len(_ROWS) if isinstance(first, (int, np.integer)) else _ROWS


def _one_channel(maps: gs.Tensor) -> bool:
    """Whether maps [n, C, M, M] have one channel; rows cut off in front or behind leave their shape open."""
    while not isinstance(maps.shape[1], (int, np.integer)) and (node := producer(maps)) is not None and node.op == "Slice":
        axes = value(node.inputs[3]) if len(node.inputs) > 3 else None
        if axes is None or axes.tolist() != [0] or len(node.inputs[0].shape or ()) != 4:
            return False
        maps = node.inputs[0]
    return bool(maps.shape[1] == 1)


def _side(dim: object) -> int:
    return int(dim) if isinstance(dim, (int, np.integer)) else _SIDE


def _run(graph: Graph, output: gs.Tensor, source: gs.Tensor, fed: np.ndarray) -> np.ndarray:
    return evaluate(graph, [output], {source.name: fed.astype(np.dtype(source.dtype))})[0]


def _axes(output: gs.Tensor) -> str:
    """The axes of an output, where the first is one of a batch."""
    return str(["1", "n", "4"][: len(output.shape or ())]).replace("'", "")


def _box_form(graph: Graph, output: gs.Tensor, source: gs.Tensor, sizes: tuple[tuple[int, int], ...]) -> OutputForm | None:
    """The layout and the scale whose boxes the file gives, on boxes within and around an image and on degenerate ones."""
    rng = np.random.Generator(np.random.Philox(_SEED))
    shape = _axes(output) if len(output.shape or ()) == 3 else ""
    made = []
    for rows in _rows(source):
        boxes = rng.uniform(-64, 1400, (rows, 4)).astype(np.float32)
        boxes[: min(len(boxes), 3)] = np.array([[0, 0, 0, 0], [5, 5, 5, 5], [9, 8, 7, 6]])[: len(boxes)]
        made.append((boxes, _run(graph, output, source, boxes)))
    for layout in BOX_LAYOUTS:
        for size in (None, *sizes):
            form = OutputForm(Role.BOXES.value, output.name, source.name, layout, size, shape=shape)
            if all(_gives(form, *pair) for pair in made):
                return form
    return None


def _gives(form: OutputForm, boxes: np.ndarray, found: np.ndarray) -> bool:
    expected = boxes.astype(np.float64) @ form.matrix().T
    most = np.abs(boxes).max() * np.abs(form.matrix()).max(1)
    return found.size == expected.size and bool(np.all(np.abs(found.reshape(-1, 4) - expected) <= _SAME * most))


def _class_form(graph: Graph, output: gs.Tensor, source: gs.Tensor) -> OutputForm | None:
    rng = np.random.Generator(np.random.Philox(_SEED))
    shape = _axes(output) if len(output.shape or ()) == 2 else ""
    kind = str(np.dtype(output.dtype)) if np.issubdtype(np.dtype(output.dtype), np.floating) else ""
    if len(output.shape or ()) == 2 and output.shape[0] != 1:
        return None
    firsts: set[float] = set()
    for rows in _rows(source):
        numbers = rng.integers(0, _MOST, rows)
        found = _run(graph, output, source, numbers)
        if found.size != numbers.size:
            return None
        firsts.update((found.reshape(-1) - numbers).tolist())
    if len(firsts) != 1 or (first := firsts.pop()) != round(first):
        return None
    return OutputForm(Role.CLASSES.value, output.name, source.name, first=int(first), shape=shape, kind=kind)


def _moved(graph: Graph, output: gs.Tensor, source: gs.Tensor, role: Role, row: tuple[int, ...]) -> OutputForm | None:
    """A form that has the same numbers in the same order, in other axes; `row`: the shape of one."""
    rng = np.random.Generator(np.random.Philox(_SEED))
    for rows in _rows(source):
        numbers = rng.uniform(0, 1, (rows, *row)).astype(np.float32)
        found = _run(graph, output, source, numbers)
        if found.size != numbers.size or not np.array_equal(found.reshape(-1), numbers.reshape(-1)):
            return None
    axes = _axes(output) if role is Role.SCORES else {3: "[n, M, M]", 5: "[1, n, 1, M, M]"}[found.ndim]
    return OutputForm(role.value, output.name, source.name, shape=axes)
