"""From a histogram to the largest magnitude that int8 shall represent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError
from onnxgraft.quantization.histogram import BINS, Histogram

LEVELS = 127
PERCENTILE = 99.99
_CANDIDATES = 128  # clipping points that entropy and mse try


def minmax(histogram: Histogram, percentile: float = PERCENTILE) -> float:
    """The largest magnitude seen: nothing is clipped, one outlier costs everybody resolution."""
    return histogram.amax


def percentile(histogram: Histogram, percentile: float = PERCENTILE) -> float:
    """The magnitude that `percentile` percent of all values stay below."""
    cumulative = np.cumsum(histogram.counts)
    index = int(np.searchsorted(cumulative, cumulative[-1] * (percentile / 100.0)))
    return min(histogram.amax, (index + 1) * histogram.width)


def mse(histogram: Histogram, percentile: float = PERCENTILE) -> float:
    """The clipping point with the least mean squared error of rounding and clipping together."""
    used = _used(histogram)
    counts = histogram.counts[:used].astype(np.float64)
    counts[0] -= histogram.zeros  # zero is represented exactly by every scale
    centres = (np.arange(used) + 0.5) * histogram.width
    errors = []
    limits = _limits(histogram)
    for limit in limits:
        scale = limit / LEVELS
        rounded = np.minimum(np.rint(centres / scale), LEVELS) * scale
        errors.append(float(counts @ (centres - rounded) ** 2))
    return float(limits[int(np.argmin(errors))])


def entropy(histogram: Histogram, percentile: float = PERCENTILE) -> float:
    """The clipping point whose 128 levels keep the distribution best (least KL divergence), as TensorRT chose it.

    S. Migacz, "8-bit inference with TensorRT", GTC 2017. Exact zeros, which ReLU makes in masses and every scale
    represents, are left out.
    """
    used = _used(histogram)
    counts = histogram.counts[:used].astype(np.float64)
    counts[0] -= histogram.zeros
    best, chosen = np.inf, used
    for end in range(LEVELS + 1, used + 1, max(1, used // (_CANDIDATES * 4))):
        divergence = _divergence(counts, end)
        if divergence < best:
            best, chosen = divergence, end
    return min(histogram.amax, chosen * histogram.width)


def _divergence(counts: NDArray[np.float64], end: int) -> float:
    """KL(P || Q), P the first `end` bins with all that is clipped in the last, Q its 128-level form."""
    reference = counts[:end].copy()
    occupied = reference > 0
    level = (np.arange(end) * (LEVELS + 1)) // end
    mass = np.bincount(level, weights=reference, minlength=LEVELS + 1)
    bins = np.bincount(level, weights=occupied, minlength=LEVELS + 1)
    reference[-1] += counts[end:].sum()
    spread = np.where(occupied, (mass / np.maximum(bins, 1))[level], 0.0)
    p, q = reference / max(reference.sum(), 1.0), spread / max(spread.sum(), 1.0)
    q = np.maximum(q, 1e-12)
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / q[held])))


METHODS: dict[str, Callable[..., float]] = {"entropy": entropy, "percentile": percentile, "minmax": minmax, "mse": mse}
DEFAULT = "mse"


def amax(histogram: Histogram, method: str = DEFAULT, percentile: float = PERCENTILE) -> float:
    """The largest magnitude to represent; 0 when the tensor was zero throughout. Raises InputError for an unknown method."""
    check(method, percentile)
    return METHODS[method](histogram, percentile) if histogram.amax > 0 else 0.0


def check(method: str, percentile: float = PERCENTILE) -> None:
    """Raises InputError for a method or percentile that is none."""
    if method not in METHODS:
        raise InputError(f"calibration method {method!r} is not one of {', '.join(METHODS)}")
    if not 0 < percentile <= 100:
        raise InputError(f"percentile {percentile:g} does not lie between 0 and 100")


def _used(histogram: Histogram) -> int:
    return min(BINS, int(np.flatnonzero(histogram.counts)[-1]) + 1)


def _limits(histogram: Histogram) -> NDArray[np.float64]:
    """Clipping points from 1/16 of the largest magnitude up to it, evenly on a logarithmic scale."""
    return histogram.amax * 2.0 ** np.linspace(-4, 0, _CANDIDATES)
