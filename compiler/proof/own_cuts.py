"""Parts that passes themselves declare to have rewritten: run before and after on probes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import ProofError
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass, Region
from onnxgraft.pipeline.context import Context
from onnxgraft.proof.compare import compare_values
from onnxgraft.proof.cut import Cut, CutError

_SEED = 20_261_129
_UNKNOWN = 5  # what a dimension is that the graph does not fix
_SCALES = (1.0, 0.0, 100.0, 1e-3)


def declares_cut(step: Pass) -> bool:
    """Whether a pass says which part it rewrites."""
    return type(step).cut is not Pass.cut


def check_cut(step: Pass, before: Graph, after: Graph, ctx: Context) -> int:
    """Run the part that a pass declares, as it was and as it is. Returns on how many probes both gave the same.

    Raises:
        ProofError: they differ, or the part cannot be cut out; names the pass and the tensor.
    """
    region = step.cut(after, ctx)
    if region is None:
        return 0
    starts, ends = region.new_starts or region.starts, region.new_ends or region.ends
    try:
        old, new = Cut(before, region.starts, region.ends), Cut(after, starts, ends)
        number = 0
        for fed in region.feeds or _made(before, region):
            first = old(dict(zip(region.starts, fed, strict=True)))
            second = new(dict(zip(starts, fed, strict=True)))
            for name, other in zip(region.ends, ends, strict=True):
                words = _difference(first[name], second[other], region.limit)
                if words is not None:
                    raise ProofError(f"its own part up to {name!r}, probe {number}: {words}")
            number += 1
    except CutError as error:
        raise ProofError(f"it declares a part that cannot be cut out: {error}") from error
    return number


def _difference(old: NDArray[Any], new: NDArray[Any], limit: float) -> str | None:
    if old.dtype.kind != "f":
        return None if np.array_equal(old, new) else f"other {old.dtype} values after the pass"
    return compare_values(np.atleast_1d(old), np.atleast_1d(new), limit).difference


def _made(graph: Graph, region: Region) -> Iterator[Sequence[NDArray[Any]]]:
    """Seeded arrays of the starts' types and shapes: noise of several sizes, nothing, ramps."""
    tensors = [graph.tensor(name) for name in region.starts]
    for number, scale in enumerate(_SCALES):
        rng = np.random.Generator(np.random.Philox(_SEED + number))
        fed = []
        for tensor in tensors:
            shape = [d if isinstance(d, int) else _UNKNOWN for d in tensor.shape or ()]
            kind = np.dtype(tensor.dtype or np.float32)
            noise = rng.normal(0, 1, shape) * scale
            fed.append((noise > 0) if kind == np.bool_ else noise.astype(kind))
        yield fed
