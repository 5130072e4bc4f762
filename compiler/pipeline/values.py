"""The names of tensors that passes hand on; asking for one that is not there yet names the pass that makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import Head
from onnxgraft.errors import OnnxgraftError

T = TypeVar("T")


class Made(Generic[T]):
    """A value that passes make. Reading it before raises OnnxgraftError with what is missing and who makes it."""

    def __init__(self, what: str, *makers: str) -> None:
        self.what, self.makers = what, makers

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, holder: None, owner: type) -> Made[T]: ...
    @overload
    def __get__(self, holder: object, owner: type) -> T: ...
    def __get__(self, holder: object | None, owner: type) -> Made[T] | T:
        if holder is None:
            return self
        if self.name not in vars(holder):
            raise _missing(self.what, *self.makers)
        found: T = vars(holder)[self.name]
        return found

    def __set__(self, holder: object, value: T) -> None:
        vars(holder)[self.name] = value


def _missing(what: str, *makers: str) -> OnnxgraftError:
    return OnnxgraftError(f"needs {what}, which {' or '.join(makers)} makes and which was not made before it")


@dataclass(frozen=True)
class LevelValues:
    """The selected candidates of one level: boxes [N, k, 4] in pixels of the canvas, scores (an RPN's are logits) [N, k],
    best first, and int64 classes [N, k] of a dense head's. Of SSD, those of all levels: k of each class in turn."""

    boxes: str
    scores: str
    classes: str | None = None


@dataclass(frozen=True)
class ProposalValues:
    """Proposals: boxes [N, P, 4] in pixels of the canvas, bool valid [N, P], int64 numbers of the first image's valid rows
    (None where nothing of the export reads proposals)."""

    boxes: str
    valid: str
    valid_rows: str | None = None


class ResultValues(dict[Role, str]):
    """The tensors of the results, by their role; rows of N images in a fixed number once an NMS pass made them."""

    def __missing__(self, role: Role) -> str:
        raise _missing(f"the detections' {role.value}", "box-nms", "dense-nms")


class DetectorValues:
    """The tensors of a detector at which passes meet, by name.

    Attributes:
        image: the graph's image input as fix-input left it.
        normalized: what the first convolution reads, [N, 3, H, W].
        levels: the candidates that were selected on each level, finest first.
        proposals: what the box head pools first.
        head_boxes: [N, P, 4] in pixels of the canvas, what the last box head pooled.
        pooled: features of the detections, by the head that reads them.
        point_maps: by the name of a map that is sampled at points, the one that is sampled instead.
        results: the outputs.
    """

    image = Made[str]("the image's name", "fix-input")
    normalized = Made[str]("the normalised image", "fix-input")
    levels = Made[list[LevelValues]]("the candidates of each level", "decode-boxes", "dense-decode")
    proposals = Made[ProposalValues]("proposals", "rpn-nms", "take-proposals")
    head_boxes = Made[str]("the boxes that the box head pools", "roi-align")
    pooled = Made[dict[Head, str]]("the pooled features of detections", "roi-align")

    def __init__(self, results: dict[Role, str] | None = None) -> None:
        self.results = ResultValues(results or {})
        self.point_maps: dict[str, str] = {}

    def has(self, name: str) -> bool:
        """Whether a value was made: has("proposals")."""
        return name in vars(self)

    def __repr__(self) -> str:
        made: dict[str, Any] = vars(self)
        return f"DetectorValues({', '.join(f'{name}={value!r}' for name, value in made.items())})"
