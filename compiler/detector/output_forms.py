"""Other forms in which an export may give its detections, and how they become the one form of all builds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.detector.outputs import Role

BOX_LAYOUTS: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "x1, y1, x2, y2": ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)),
    "y1, x1, y2, x2": ((0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0)),
    "x1, y1, width, height": ((1, 0, 0, 0), (0, 1, 0, 0), (-1, 0, 1, 0), (0, -1, 0, 1)),
    "centre x, centre y, width, height": ((0.5, 0, 0.5, 0), (0, 0.5, 0, 0.5), (-1, 0, 1, 0), (0, -1, 0, 1)),
}
"""Each column of a layout as a sum of x1, y1, x2, y2."""

CORNERS = next(iter(BOX_LAYOUTS))
_SHAPES = {Role.BOXES: (-1, 4), Role.SCORES: (-1,), Role.CLASSES: (-1,)}


@dataclass(frozen=True)
class OutputForm:
    """An output of an export that gives its detections in another form than detectron2.

    Attributes:
        role: what the output is, a value of `Role`.
        given: its name in the file.
        taken: the tensor that holds detectron2's form, as the outputs of the spec name it.
        layout: of boxes, a key of `BOX_LAYOUTS`.
        size: height and width of the image by which boxes are divided; None where they are in pixels.
        first: number of the first class.
        shape: axes of the file's output, where detectron2 has others; empty where it has the same.
        kind: dtype of the file's output, where detectron2 has another; empty where it has the same.
        decoded: whether it is made of what detectron2 gives and does not tell it: keypoints of heatmaps, masks in the picture;
            `shape` says what it holds, too.
    """

    role: str
    given: str
    taken: str
    layout: str = CORNERS
    size: tuple[int, int] | None = None
    first: int = 0
    shape: str = ""
    kind: str = ""
    decoded: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is detectron2's form."""
        return not (self.layout != CORNERS or self.size is not None or self.first or self.shape or self.kind)

    def matrix(self) -> NDArray[np.float64]:
        """[4, 4]: what the file's columns are of x1, y1, x2, y2 in pixels."""
        matrix = np.array(BOX_LAYOUTS[self.layout])
        if self.size is None:
            return matrix
        height, width = self.size
        across = np.array([width, height, width, height] if not self.layout.startswith("y") else [height, width] * 2)
        return matrix / across[:, None]

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """The file's output as detectron2 gives it: boxes float32 [n, 4] in pixels, classes int64 [n] from 0, scores [n],
        masks [n, 1, M, M]."""
        if self.role == Role.MASKS.value:
            return array.reshape(-1, 1, *array.shape[-2:])
        array = array.reshape(_SHAPES[Role(self.role)])
        if self.role == Role.BOXES.value:
            return np.asarray(array.astype(np.float64) @ np.linalg.inv(self.matrix()).T, np.float32)
        return array.astype(np.int64) - self.first if self.role == Role.CLASSES.value else array

    def __str__(self) -> str:
        if self.decoded:
            return f"{'keypoints' if self.role == Role.HEATMAPS.value else self.role} {self.shape}"
        said = []
        if self.layout != CORNERS:
            said.append(f"as {self.layout}")
        if self.size is not None:
            said.append(f"divided by the image's {self.size[0]}x{self.size[1]}")
        if self.first:
            said.append(f"counted from {self.first}")
        if self.kind:
            said.append(f"as {self.kind}")
        if self.shape:
            said.append(f"shaped {self.shape}")
        return f"{self.role} {', '.join(said)}"


def undone(outputs: Mapping[str, NDArray[Any]], forms: Sequence[OutputForm]) -> dict[str, NDArray[Any]]:
    """A file's outputs by name, with those of another form undone and under the names that the spec has for them; their
    shape and dtype are those of `OutputForm.undo`. What is decoded is left out."""
    other = {form.given: form for form in forms}
    return dict(_named(outputs, other))


def _named(outputs: Mapping[str, NDArray[Any]], other: Mapping[str, OutputForm]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, array in outputs.items():
        form = other.get(name)
        if form is None or not form.decoded:
            yield (name, array) if form is None else (form.taken, form.undo(array))


def forms_note(forms: Sequence[OutputForm]) -> list[str]:
    """What the export gives in another form, as a note for the user."""
    if not forms:
        return []
    one = f"boxes as {CORNERS}, classes from 0" + ", keypoints as heatmaps" * any(f.role == Role.HEATMAPS.value for f in forms)
    one += ", masks as M x M probabilities" * any(f.decoded and f.role == Role.MASKS.value for f in forms)
    return [f"the export gives {'; '.join(map(str, forms))}: the build gives the one form of all builds, {one}"]


def given_name(taken: str | None, forms: Sequence[OutputForm]) -> str:
    """What the file calls the output that a spec names `taken`."""
    return next((form.given for form in forms if form.taken == taken), taken or "")
