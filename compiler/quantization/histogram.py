"""Fixed-size histograms of magnitudes whose merging is exact, whatever the order and the split.

The range is always a power of two, [0, 2**exponent), in BINS equal bins. When a larger value comes, the exponent grows
and neighbouring bins are added up: since a value's bin is floor(|x| * BINS / 2**exponent), computed without rounding,
the counts are those that one histogram over the final range would have given.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

BINS = 4096  # at least half of them are in use
SMALLEST, QUICKEST = 9, 1  # how far zlib compresses counts; the former takes 70 times as long for a tenth less
_CHUNK = 1 << 18  # values binned at a time, so that they and the scratch arrays stay in the cache
_LANES = 4  # so many counters a bin has for values that are mostly zero, which take turns
_LANE = np.tile(np.arange(_LANES, dtype=np.uint16) * BINS, _CHUNK // _LANES)
_HIGHEST = 128  # of float32
_LOWEST = -100  # smaller ranges are not told apart


class _Scratch:
    """Arrays of so many elements to count with: scaled values, their bins as int32 and as uint16, and flags."""

    def __init__(self, size: int) -> None:
        self.arrays = tuple(np.empty(size, kind) for kind in (np.float32, np.int32, np.uint16, bool))


@dataclass
class Histogram:
    """What was seen of one tensor.

    Attributes:
        exponent: the range is [0, 2**exponent); None before the first finite value other than zero.
        counts: int64 [BINS] of magnitudes, zeros included.
        total, zeros, negatives, bad: numbers of values; bad ones are NaN or infinite and counted nowhere else.
        low, high: least and greatest finite value.
    """

    exponent: int | None = None
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    total: int = 0
    zeros: int = 0
    negatives: int = 0
    bad: int = 0
    low: float = math.inf
    high: float = -math.inf

    @property
    def amax(self) -> float:
        """The largest magnitude, 0 when nothing but zeros was seen."""
        return max(abs(self.low), abs(self.high)) if self.total else 0.0

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2.0 ** (self.exponent or 0) / BINS

    def add(self, values: NDArray[Any]) -> None:
        """Count the values of an array of any shape; float32 (others are converted)."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        scratch = _Scratch(min(flat.size, _CHUNK))
        for start in range(0, flat.size, _CHUNK):
            part = flat[start : start + _CHUNK]
            low, high = float(part.min()), float(part.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                finite = np.isfinite(part)
                self.bad += int(part.size - finite.sum())
                part = part[finite]
                if not part.size:
                    continue
                low, high = float(part.min()), float(part.max())
            self.low, self.high = min(self.low, low), max(self.high, high)
            self.total += part.size
            self._grow(exponent_of(max(abs(low), abs(high))))
            self._count(part, low, scratch)

    def _count(self, part: NDArray[np.float32], low: float, scratch: _Scratch) -> None:
        scaled, where, index, flags = (array[: part.size] for array in scratch.arrays)
        np.multiply(part, np.float32(BINS / 2.0 ** (self.exponent or 0)), out=scaled)
        if low < 0:
            self.negatives += int(np.count_nonzero(np.less(part, 0, out=flags)))
            np.abs(scaled, out=scaled)
        np.copyto(where, scaled, casting="unsafe")  # by way of int32 it takes half the time
        np.copyto(index, where, casting="unsafe")
        zeros = int(np.count_nonzero(np.equal(part, 0, out=flags)))
        lanes = _LANES if zeros > part.size // 4 else 1  # else each zero would wait for the one before it to be counted
        if lanes > 1:
            np.add(index, _LANE[: part.size], out=index)
        counted = cv2.calcHist([index.reshape(1, -1)], [0], None, [lanes * BINS], [0, lanes * BINS])
        self.counts += counted.reshape(lanes, BINS).sum(axis=0, dtype=np.int64)  # float32 are exact for a chunk
        self.zeros += zeros

    def _grow(self, exponent: int | None) -> None:
        """Widen the range to at least 2**exponent."""
        if exponent is None or (self.exponent is not None and exponent <= self.exponent):
            return
        if self.exponent is not None:
            merged = 1 << min(exponent - self.exponent, BINS.bit_length() - 1)
            grown = np.zeros(BINS, np.int64)
            grown[: BINS // merged] = self.counts.reshape(-1, merged).sum(axis=1)
            self.counts = grown
        self.exponent = exponent

    def merge(self, other: Histogram) -> None:
        """Add what another histogram has seen; exactly as if this one had seen it."""
        aligned = Histogram(other.exponent, other.counts.copy())
        self._grow(other.exponent)
        aligned._grow(self.exponent)
        self.counts = self.counts + aligned.counts
        for name in ("total", "zeros", "negatives", "bad"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def to_dict(self, level: int = SMALLEST) -> dict[str, Any]:
        """Plain values for JSON; the counts up to the last one that is not zero, compressed by zlib as far as `level` says."""
        used = int(np.flatnonzero(self.counts)[-1]) + 1 if self.counts.any() else 0
        packed = zlib.compress(self.counts[:used].astype("<i8").tobytes(), level)
        return {
            "exponent": self.exponent, "total": self.total, "zeros": self.zeros, "negatives": self.negatives,
            "bad": self.bad, "low": self.low if self.total else None, "high": self.high if self.total else None,
            "counts": base64.b64encode(packed).decode(),
        }  # fmt: skip

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Histogram:
        """The inverse of to_dict. Raises ValueError or KeyError for anything else."""
        counts = np.zeros(BINS, np.int64)
        try:
            held = np.frombuffer(zlib.decompressobj().decompress(base64.b64decode(data["counts"]), counts.nbytes + 1), "<i8")
        except zlib.error as error:
            raise ValueError(f"damaged counts: {error}") from error
        if held.size > BINS or (held < 0).any():
            raise ValueError("damaged counts")
        counts[: held.size] = held
        numbers = {key: int(data[key]) for key in ("total", "zeros", "negatives", "bad")}
        if int(counts.sum()) != numbers["total"]:
            raise ValueError("the counts do not add up")
        low = math.inf if data["low"] is None else float(data["low"])
        high = -math.inf if data["high"] is None else float(data["high"])
        exponent = None if data["exponent"] is None else int(data["exponent"])
        if exponent is not None and not _LOWEST <= exponent <= _HIGHEST:
            raise ValueError(f"damaged exponent {str(exponent)[:20]}")
        if math.isnan(low) or math.isnan(high) or (numbers["total"] and not math.isfinite(high - low)):
            raise ValueError("damaged range")
        return Histogram(exponent, counts, **numbers, low=low, high=high)


def exponent_of(magnitude: float) -> int | None:
    """The least e with magnitude < 2**e; None for zero."""
    return max(math.frexp(magnitude)[1], _LOWEST) if magnitude > 0 else None
