"""What a mutant answers, whether that is something else than before, and what a build of it answers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import onnx

from campaigns.mutants.bases import PLAIN, Answers, Base, base
from onnxgraft.files import CACHE
from onnxgraft.ir.graph import Graph
from onnxgraft.proof import probes, witness
from onnxgraft.proof.cut import Arrays, Cut, CutError
from onnxgraft.proof.models import BuildModel
from onnxgraft.proof.parts import Part
from onnxgraft.proof.pictures import in_batches
from onnxgraft.proof.plan import parts_of
from onnxgraft.proof.probes import Probe
from onnxgraft.proof.prove import first_failure
from onnxgraft.proof.sides import Sides
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections

SHAKES = 4
FINE = 1e-3  # of scores: what may lie in another order


def difference(expected: Detections | str, found: Detections | str) -> str | None:
    """How two answers differ, or None: as sets, and by the order of rows."""
    if isinstance(expected, str) or isinstance(found, str):
        return (
            None
            if isinstance(expected, str) and isinstance(found, str)
            else f"{expected if isinstance(expected, str) else found}"
        )
    report = match(expected, found)
    if not report.exact:
        return str(report)
    pairs = report.pairs[np.argsort(report.pairs[:, 0])]
    places, scores = pairs[:, 1], expected.scores[pairs[:, 0]]
    crossed = (places[:, None] > places[None]) & (np.arange(len(places))[:, None] < np.arange(len(places))[None])
    if np.any(crossed & (np.abs(scores[:, None] - scores[None]) > FINE)):
        return "rows in another order"
    return None


def undecided(mutant: Answers, picture: np.ndarray, expected: Detections | str, found: Detections | str) -> bool:
    """Whether the mutant itself gains and loses as much when its pixels change by a thousandth of a grey level, or answers as
    was found once ONNX Runtime fuses its nodes: where scores saturate, rounding decides all."""
    if isinstance(expected, str) or isinstance(found, str):
        return False
    if difference(mutant.rounded_otherwise()([picture])[0], found) is None:
        return True
    report = match(expected, found)
    lost = set(range(report.reference)) - set(report.pairs[: report.matched, 0].tolist())
    unsure: set[int] = set()
    for seed in range(SHAKES):
        noise = np.random.default_rng(seed).uniform(-1e-3, 1e-3, picture.shape).astype(np.float32)
        (own,) = mutant([picture + noise])
        if isinstance(own, str):
            return True
        again = match(expected, own)
        unsure |= set(range(again.reference)) - set(again.pairs[: again.matched, 0].tolist())
    return report.same_map and lost <= unsure and len(unsure) > 0


@contextmanager
def salted(salt: int) -> Iterator[None]:
    """Probes of other seeds than the proof's own."""
    old = probes.SEED
    probes.SEED = old + 1000 * (salt + 1)
    try:
        yield
    finally:
        probes.SEED = old


@cache
def _corners(name: str, settled: bool) -> list[tuple[Part, list[Probe], list[Arrays]]]:
    """The parts of a base, inputs that reach their corners, and what it gives for them."""
    held = base(name, settled)
    path = CACHE / "fuzz" / f"{name}-{settled}-{os.getpid()}.onnx"
    onnx.save(held.model, path)
    seen = witness.run(path, held.steps(PLAIN), None)
    assert seen.recognised is not None
    found = []
    with salted(7):
        for part in parts_of(seen.sides(seen.recognised)):
            fed = list(part.probes())
            found.append((part, fed, [part.of_file(probe) for probe in fed]))
    return found


def corner_effect(held: Base, mutant: onnx.ModelProto, folder: Path) -> str | None:
    """The part whose results for corners differ from the base's, or None where none does or it cannot be told."""
    path = folder / "corners.onnx"
    onnx.save(mutant, path)
    graph = Graph.load(path)
    for part, fed, expected in _corners(held.name, held.settled):
        try:
            cut = Cut(graph, part.file.inputs, part.file.outputs)
            for probe, before in zip(fed, expected, strict=True):
                found = cut({p.file: probe.feeds[p.role] for p in part._ports if p.file})
                for name, role in zip(part._file_ends.values(), part._file_ends, strict=True):
                    a, b = before[role], found[name]
                    if a.shape != b.shape or not np.allclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True):
                        return f"{part.name}, fed {probe.name!r}"
        except CutError:
            continue
    return None


def build_differs(
    mutant: Answers, sides: Sides, shown: Sequence[np.ndarray], expected: Sequence[Detections | str], folder: Path
) -> str | None:
    """How the compiled graph differs from the mutant, on pictures and on probes of other seeds; None where it does not."""
    build = BuildModel(sides, folder)
    given = in_batches(build, shown)
    for number, (picture, mine, found) in enumerate(zip(shown, expected, given, strict=True)):
        words = difference(mine, found)
        if words is not None and not undecided(mutant, picture, mine, found):
            return f"picture {number}: {words}"
    with salted(0):
        for part in parts_of(sides):
            failure = first_failure(part, list(part.probes()), sides.ctx.batch)
            if failure is not None:
                return f"{part.name}, fed {failure[0].name!r}: {failure[1]}"
    return None
