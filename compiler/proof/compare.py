"""When two sides of a part give the same: sets of rows for boxes, every value for maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOX_PX = 1e-3
SCORE = 1e-5
VALUE = 1e-3  # of the reference's largest magnitude: pooling sums hundreds of products in another order


@dataclass(frozen=True)
class Rows:
    """Boxes that one image gives.

    boxes: float32 [n, 4], pixels. scores: float32 [n] or None where none are given. classes: int64 [n] or None.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32] | None = None
    classes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def tell(self, row: int) -> str:
        """One row in words."""
        words = [f"box {', '.join(f'{v:.6g}' for v in self.boxes[row])}"]
        if self.classes is not None:
            words.append(f"class {int(self.classes[row])}")
        if self.scores is not None:
            words.append(f"score {float(self.scores[row]):.7g}")
        return ", ".join(words)


@dataclass(frozen=True)
class Outcome:
    """One comparison. difference: the first row that differs, in words; None when nothing does. Worst differences over
    what was paired: box_px in pixels, score, value (absolute). rows: how many were compared."""

    difference: str | None = None
    rows: int = 0
    box_px: float = 0.0
    score: float = 0.0
    value: float = 0.0


def compare_rows(file: Rows, build: Rows) -> Outcome:
    """Both as sets: each row of one has a partner of its own in the other; scores of the build never rise."""
    near = np.ones((len(file), len(build)), bool)
    with np.errstate(invalid="ignore"):
        apart = np.abs(file.boxes[:, None].astype(np.float64) - build.boxes[None]).max(axis=2, initial=0.0)
        near &= apart <= BOX_PX
        if file.classes is not None and build.classes is not None:
            near &= file.classes[:, None] == build.classes[None]
        gap = np.zeros_like(apart)
        if file.scores is not None and build.scores is not None:
            gap = np.abs(file.scores[:, None].astype(np.float64) - build.scores[None])
            near &= gap <= SCORE
    partner = _pair(near, apart)
    paired = np.nonzero(partner >= 0)[0]
    worst_box = float(apart[paired, partner[paired]].max(initial=0.0))
    worst_score = float(gap[paired, partner[paired]].max(initial=0.0))
    difference = _first_difference(file, build, partner, apart)
    return Outcome(difference, len(file), worst_box, worst_score)


def _pair(near: NDArray[np.bool_], apart: NDArray[np.float64]) -> NDArray[np.int64]:
    """A partner of its own for each row, nearest first; -1 where there is none."""
    partner = np.full(near.shape[0], -1, np.int64)
    taken = np.zeros(near.shape[1], bool)
    rows, columns = np.nonzero(near)
    for k in np.argsort(apart[rows, columns], kind="stable"):
        row, column = rows[k], columns[k]
        if partner[row] < 0 and not taken[column]:
            partner[row], taken[column] = column, True
    return partner


def _first_difference(file: Rows, build: Rows, partner: NDArray[np.int64], apart: NDArray[np.float64]) -> str | None:
    alone = np.nonzero(partner < 0)[0]
    counts = f"{len(file)} rows in the file, {len(build)} in the build"
    if len(alone):
        row = int(alone[0])
        nearest = f"the nearest of the build is {build.tell(int(np.nan_to_num(apart[row], nan=np.inf).argmin()))}" \
            if len(build) else "the build gives none"
        return f"{counts}; row {row} of the file ({file.tell(row)}) is missing: {nearest}"
    extra = sorted(set(range(len(build))) - set(partner.tolist()))
    if extra:
        return f"{counts}; row {extra[0]} of the build ({build.tell(extra[0])}) is none of the file's"
    if build.scores is not None and np.any(np.diff(build.scores) > SCORE):
        row = int(np.nonzero(np.diff(build.scores) > SCORE)[0][0]) + 1
        return f"row {row} of the build ({build.tell(row)}) is out of order"
    return None


def compare_values(file: NDArray[np.float32], build: NDArray[np.float32], limit: float = VALUE) -> Outcome:
    """Row by row, every value: they may differ by `limit` of the largest magnitude (0: not at all)."""
    if file.shape != build.shape:
        return Outcome(f"the file gives {list(file.shape)}, the build {list(build.shape)}")
    if not file.size:
        return Outcome()
    apart = np.abs(file - build)
    worst = apart.reshape(len(apart), -1).max(axis=1)
    allowed = limit * float(np.abs(file).max())
    wrong = np.nonzero(~(worst <= allowed))[0]
    difference = None
    if len(wrong):
        row = int(wrong[0])
        place = np.unravel_index(int(np.nan_to_num(apart[row], nan=np.inf).argmax()), apart[row].shape)
        where = ", ".join(str(int(i)) for i in place)
        difference = (f"row {row} at ({where}): {float(file[row][place]):.7g} in the file, "
                      f"{float(build[row][place]):.7g} in the build; {len(wrong)} of {len(file)} rows differ")  # fmt: skip
    return Outcome(difference, len(file), value=float(np.nanmax(worst)) if len(worst) else 0.0)
