"""Answers the quantize pass: where the ranges come from, and when they are measured anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError, Refusal
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.context import Context, Ranges
from onnxgraft.quantization import dataset as picture_sets
from onnxgraft.quantization import methods, trt_cache
from onnxgraft.quantization.calibration import Calibration, Key, group_ranges, key_of, pictures_digest
from onnxgraft.quantization.collect import collect, state_name
from onnxgraft.quantization.dataset import Picture
from onnxgraft.quantization.histogram import QUICKEST
from onnxgraft.runtime.images import ResizeRule

NEEDS = "int8 needs calibration images: give --calib DIR (about 100 pictures like those it will see)"
_FEW = 8  # pictures of a calibration below which ranges are chance


def few_pictures(count: int) -> list[str]:
    """A warning for a calibration of `count` pictures, where one is due."""
    if count >= _FEW:
        return []
    return [f"calibrated on {count} picture{'s' * (count != 1)} only: other pictures may exceed these ranges, and AP may fall "
            "far; about 100 like those it will see are enough"]  # fmt: skip


@dataclass
class Provider:
    """Where one build's ranges come from: a RangeSource of its context.

    Attributes:
        model: the model as the user named it; golden graphs bring pictures or a calibration along.
        source: a folder of images, a calibration.json, a TensorRT calibration cache, or None.
        cache: folder for calibrations that were measured.
        rule: how pictures are resized, as inference does it.
        calibration: the statistics that were used; None after a TensorRT cache.
        used: sentences on where the ranges came from.
    """

    model: str
    cache: Path
    source: Path | None = None
    method: str = methods.DEFAULT
    percentile: float = methods.PERCENTILE
    limit: int | None = None
    progress: Callable[[str], None] = lambda _: None
    rule: ResizeRule = field(default_factory=ResizeRule)
    calibration: Calibration | None = None
    used: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        methods.check(self.method, self.percentile)

    def ranges(self, graph: Graph, ctx: Context, groups: list[list[str]]) -> Ranges:
        """Measure, or read what was measured before; the tensors of a group get the same amax.

        Raises InputError or Refusal when nothing fits and nothing can be measured.
        """
        if self.source is not None and trt_cache.is_cache(self.source):
            return self._from_tensorrt(self.source, groups)
        names = sorted(name for group in groups for name in group)
        notes: list[str] = []
        self.calibration = self._calibration(graph, ctx, names, key_of(graph, ctx, names, self.rule), notes)
        seen = {name: self.calibration.tensors[name].amax for name in names}
        amax = group_ranges(self.calibration, groups, self.method, self.percentile)
        few = few_pictures(len(self.calibration.pictures))
        return Ranges(amax, seen, (*notes, *few, *self._remarks()))

    def check(self) -> None:
        """Refuse, before any work, what cannot lead to ranges. Raises Refusal or InputError."""
        if self.source is None and self.model not in catalog.names():
            raise Refusal(NEEDS)
        if self.source is not None and not self.source.exists():
            raise InputError(f"{self.source}: no such folder of images or calibration file")
        if self.source is not None and self.source.is_dir():
            picture_sets.folder(self.source, 1)

    def describe(self) -> dict[str, Any] | None:
        """What a manifest says of the ranges; None when none were asked for."""
        seen = self.calibration
        if not self.used:
            return None
        return {
            "from": list(self.used),
            "method": self.method if seen else "as in the cache",
            "percentile": self.percentile if self.method == "percentile" and seen else None,
            "images": len(seen.pictures) if seen else None,
            "digest": pictures_digest(seen.pictures) if seen else None,
        }

    def _from_tensorrt(self, path: Path, groups: list[list[str]]) -> Ranges:
        held = trt_cache.read(path)
        amax: dict[str, float] = {}
        for group in groups:
            known = [held[name] for name in group if name in held]
            if known:
                amax |= dict.fromkeys(group, max(known))
        if not amax:
            raise InputError(f"{path}: has none of this network's tensors (it needs {groups[0][0]!r}); it is of another model")
        self.used.append(f"TensorRT calibration cache {path.name}")
        missing = [name for group in groups for name in group if name not in amax]
        notes: tuple[str, ...] = ()
        if missing:
            notes = (f"{path.name} lacks {len(missing)} tensors ({missing[0]!r}): what reads them is not quantized",)
        return Ranges(amax | dict.fromkeys(missing, 0.0), notes=notes)

    def _calibration(
        self, graph: Graph, ctx: Context, names: Sequence[str], key: Key, notes: list[str]
    ) -> Calibration:
        if self.source is not None and not self.source.is_dir():
            if not self.source.exists():
                raise InputError(f"{self.source}: no such folder of images or calibration file")
            return self._given(self.source, key, names)
        if self.source is not None:
            return self._measured(graph, ctx, names, key, picture_sets.folder(self.source, self.limit), notes)
        if self.model not in catalog.names():
            raise Refusal(NEEDS)
        shipped = catalog.folder(self.model) / "calibration.json"
        if shipped.is_file() and self.limit is None:
            held = Calibration.load(shipped)
            reason = held.unusable(key, names)
            if reason is None:
                self.used.append(f"{len(held.pictures)} images, calibrated before ({shipped.name} of the golden graph)")
                return held
            notes.append(f"the golden graph's calibration does not serve: {reason}; calibrated on drawn scenes instead")
        return self._measured(graph, ctx, names, key, picture_sets.drawn(self.limit or picture_sets.FEW_SCENES), notes)

    def _given(self, path: Path, key: Key, names: Sequence[str]) -> Calibration:
        held = Calibration.load(path)
        reason = held.unusable(key, names)
        if reason is not None:
            raise InputError(f"{path}: does not belong to this build: {reason}")
        self.used.append(f"{len(held.pictures)} images, calibrated before ({path.name})")
        return held

    def _measured(
        self, graph: Graph, ctx: Context, names: Sequence[str], key: Key, pictures: Sequence[Picture], notes: list[str]
    ) -> Calibration:
        place = self.cache / state_name(key, pictures)
        if place.is_file():
            try:
                held = Calibration.load(place)
            except InputError as error:
                notes.append(str(error))
            else:
                if held.unusable(key, names, [(p.name, p.digest) for p in pictures]) is None:
                    self.used.append(f"{len(held.pictures)} images, calibrated before ({place.name})")
                    return held
        state = place.with_suffix(".part")
        calibration = collect(graph, ctx, names, key, pictures, state, _with_time_left(self.progress), self.rule)
        calibration.save(place, QUICKEST)
        self.used.append(f"{len(calibration.pictures)} images, calibrated now")
        return calibration

    def _remarks(self) -> list[str]:
        assert self.calibration is not None
        return [f"left out of the calibration: {line}" for line in self.calibration.skipped]


def _with_time_left(tell: Callable[[str], None]) -> Callable[[int, int, str], None]:
    """Words for a spinner: how many images are done, and how long the others take at this pace."""
    first: list[tuple[int, float]] = []

    def progress(done: int, total: int, name: str) -> None:
        if not first:
            first.append((done, time.monotonic()))
        start, since = first[0]
        words = f"calibrating, image {done} of {total}"
        if done > start:
            left = (time.monotonic() - since) / (done - start) * (total - done)
            words += f", {left:.0f} s left"
        tell(words)

    return progress
