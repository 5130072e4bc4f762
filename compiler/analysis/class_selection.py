"""What an SSD selects: of each class, the candidates above one threshold that its TopK keeps, of all levels together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.dense_selection import before_clip, largest_k, refuse_softmax
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import repeated
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import RESHAPING, SELECTING
from onnxgraft.ir.traverse import back_through, dims, first_ancestor, producer, scalar

_SEED = 14
_RANK = 2  # of a table of scores: anchors and columns
_EXAMPLES = 3  # classes that are named where they differ


@dataclass(frozen=True)
class ClassSelection:
    """All classes, whose columns of one table of scores are alike.

    Attributes:
        topk: the first class's TopK, which refusals name.
        limit: candidates that each class keeps.
        threshold: their scores exceed it.
        scores: [A, C + 1], the table of which each class takes its column; the background's is the first.
        boxes: [A, 4], clipped to the image, of which the classes take their rows.
        decoded: [A, 4] before that.
    """

    topk: gs.Node
    limit: int
    threshold: float
    scores: gs.Tensor
    boxes: gs.Tensor
    decoded: gs.Tensor

    @property
    def anchors(self) -> int:
        return dims(self.scores, 2, "the scores of all anchors")[0]

    @property
    def columns(self) -> int:
        return dims(self.scores, 2, "the scores of all anchors")[1]


def ranks_classes(best: Sequence[gs.Tensor]) -> bool:
    """Whether the scores of candidates, one tensor a TopK, come of a column each of one softmax."""
    column = _column(best[0])
    made = first_ancestor(column, lambda n: n.op in ("Softmax", "Sigmoid", "Conv")) if column is not None else None
    if made is None or made.op != "Softmax":
        return False
    if _table(best[0]) is None:
        refuse_softmax(made)
    return True


def classes_of(
    graph: Graph, boxes: Sequence[gs.Tensor], best: Sequence[gs.Tensor], labels: Sequence[gs.Tensor]
) -> ClassSelection:
    """Read the first class's numbers and hold every class against them: on tables of numbers that are all different, at the
    threshold and beside it, with more and fewer candidates than are kept, each must select exactly what they say.

    Args:
        boxes, best, labels: what the suppression gets of each class, in order: [k, 4], [k] and [k].

    Raises:
        Refusal: a class selects something else; names its TopK.
    """
    topk = producer(back_through(best[0], RESHAPING))
    table = _table(best[0])
    if topk is None or table is None:
        raise Refusal("the scores of a class do not come from its TopK", best[0].name)
    compare = first_ancestor(topk.inputs[0], lambda n: n.op in ("Greater", "GreaterOrEqual", "Less", "Softmax"))
    threshold = scalar(compare.inputs[1]) if compare is not None and compare.op == "Greater" else None
    if threshold is None:
        raise Refusal("the candidates of this TopK are not those above a constant score", topk.name)
    rows = _rows(boxes[0])
    found = ClassSelection(topk, largest_k(topk), _short(threshold), table, rows, before_clip(rows))
    if dims(rows, 2, "the boxes of all anchors") != [found.anchors, 4]:
        raise Refusal(f"boxes {rows.shape} are not those of {found.anchors} anchors", topk.name)
    if found.columns != len(best) + 1:
        raise Refusal(f"{len(best)} classes are selected of {found.columns} columns of scores; expected all but the "
                      "background's", topk.name)  # fmt: skip
    _hold_every_class(graph, found, boxes, best, labels)
    return found


def _column(best: gs.Tensor) -> gs.Tensor | None:
    """The scores [A] that a class's TopK ranks, before those below the threshold are left out; None of another structure."""
    topk = producer(back_through(best, RESHAPING))
    chosen = producer(topk.inputs[0]) if topk is not None and topk.op == "TopK" else None
    return chosen.inputs[0] if chosen is not None and chosen.op in ("GatherND", "Gather") else None


def _table(best: gs.Tensor) -> gs.Tensor | None:
    """The table [A, C + 1] of which a class takes one column."""
    column = _column(best)
    taken = producer(back_through(column, RESHAPING)) if column is not None else None
    if taken is None or taken.op not in ("Gather", "Slice") or len(taken.inputs[0].shape or ()) != _RANK:
        return None
    return taken.inputs[0]


def _rows(boxes: gs.Tensor) -> gs.Tensor:
    """The boxes of all anchors, of which those of a class are selected."""
    source = boxes
    while (node := producer(boxes)) is not None and node.op in RESHAPING | SELECTING:
        boxes = node.inputs[0]
        if node.op in SELECTING:
            source = boxes
    return source


def _short(threshold: float) -> float:
    """A threshold as it was written, where that is the same number in float32."""
    short = round(threshold, 6)
    return short if np.float32(short) == np.float32(threshold) else threshold


def _hold_every_class(
    graph: Graph, found: ClassSelection, boxes: Sequence[gs.Tensor], best: Sequence[gs.Tensor], labels: Sequence[gs.Tensor]
) -> None:
    select = repeated(graph, [*boxes, *best, *labels])
    rng = np.random.Generator(np.random.Philox(_SEED))
    rows = rng.permutation(found.anchors * 4).astype(np.float32).reshape(-1, 4)
    wrong: dict[int, str] = {}
    for scores in _tables(found, rng):
        values = select({found.scores.name: scores, found.boxes.name: rows})
        for index in range(len(best)):
            given = (values[index + len(best) * part] for part in range(3))
            said = _difference(found, scores[:, index + 1], rows, index + 1, *given)
            if said is not None:
                wrong.setdefault(index, said)
    if wrong:
        topk = producer(back_through(best[next(iter(wrong))], RESHAPING))
        classes = ", ".join(str(index) for index in list(wrong)[:_EXAMPLES])
        raise Refusal(f"class {classes} of {len(best)} (counted from 0) does not select its candidates as the first one and "
                      f"its number say: {next(iter(wrong.values()))}", (topk or found.topk).name)  # fmt: skip


def _tables(found: ClassSelection, rng: np.random.Generator) -> list[np.ndarray]:
    """Scores float32 [A, C + 1]: all above the threshold, a few around it, and the same in turn with classes that have none."""
    shape, at = (found.anchors, found.columns), np.float32(found.threshold)
    up, down = np.nextafter(at, np.float32(2)), np.nextafter(at, np.float32(-1))
    many = rng.uniform(up, max(1.0, 2 * float(up)), shape).astype(np.float32)
    few = np.where(rng.random(shape) < 0.5 * found.limit / found.anchors, many, rng.choice([at, down], shape))
    few[rng.random(shape) < min(0.1, 0.2 * found.limit / found.anchors)] = up  # which are ties, too
    some = few.copy()
    some[:, 1::2] = down
    return [many, few.astype(np.float32), some.astype(np.float32)]


def _difference(
    found: ClassSelection, scores: np.ndarray, rows: np.ndarray, number: int,
    boxes: np.ndarray, best: np.ndarray, labels: np.ndarray,
) -> str | None:  # fmt: skip
    """How what a class selects of its column [A] differs, or None."""
    above = np.nonzero(scores > np.float32(found.threshold))[0]
    wanted = above[np.argsort(-scores[above], kind="stable")][: found.limit]
    if best.size != len(wanted):
        return f"it keeps {best.size} candidates, not {len(wanted)} (threshold {found.threshold:.6g}, at most {found.limit})"
    if not np.array_equal(best.reshape(-1), scores[wanted]):
        return "other scores, or in another order"
    if not np.array_equal(boxes.reshape(-1, 4), rows[wanted]):
        return "other boxes than those of its scores"
    if not np.array_equal(labels.reshape(-1), np.full(len(wanted), number)):
        return f"it is called {labels.reshape(-1)[:1].tolist()}, not {number}, its column of scores"
    return None
