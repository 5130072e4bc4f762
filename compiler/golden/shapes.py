"""The shapes of the scenes, and the integers that everything in a scene follows from."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

CLASSES = ("disc", "square", "triangle", "star", "ring")

PIXEL = 256  # parts of one pixel, for radii
STREAM = 2  # the other half of Philox's key; 0 and 1 belong to other pictures and boxes

TURN = 720  # directions of a full turn
UNIT = 1 << 16  # length of a direction
SCALE = 60  # bits behind the point of the two numbers below
COSINE, SINE = 1152877604888700520, 10061010436790338  # of 1/TURN of a turn


class Stream:
    """Integers that follow from a seed: the words of a Philox4x64-10, without floating point."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=np.array([seed, STREAM], np.uint64))

    def between(self, low: int, high: int) -> int:
        """A uniform integer: low <= n < high."""
        return low + (self._bits.random_raw() >> 32) * (high - low) // 2**32

    def bytes(self, *shape: int) -> np.ndarray:
        """Uniform integers 0..255, int64 [*shape]."""
        words = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(56)
        return words.astype(np.int64).reshape(shape)

    def noise(self, deviation: int, *shape: int) -> np.ndarray:
        """Integers int64 [*shape] of mean 0 and this standard deviation, nearly normal: each the sum of a word's eight bytes.

        Such a sum has mean 1020 and standard deviation 209.02, of which 627 / 2^17 is the reciprocal.
        """
        words = self._bits.random_raw(int(np.prod(shape)))
        every_second = np.uint64(0x00FF00FF00FF00FF)
        pairs = (words & every_second) + (words >> np.uint64(8) & every_second)
        sums = pairs * np.uint64(0x0001000100010001) >> np.uint64(48)  # the top 16 bits gather all four
        return ((sums.astype(np.int64) - 1020) * (deviation * 627) >> 17).reshape(shape)


def shape_of(stream: Stream, height: int, width: int) -> tuple[int, np.ndarray]:
    """A random class and the mask of one shape of it, bool [H,W]."""
    category = stream.between(0, len(CLASSES))
    radii = _radii(min(height, width) * 28 * PIXEL // 100)
    radius = radii[stream.between(0, len(radii))]
    centre = stream.between(0, width), stream.between(0, height)
    angle = stream.between(0, TURN)
    x, y = np.arange(width) - centre[0], np.arange(height)[:, None] - centre[1]
    square, pixels = x**2 + y**2, radius // PIXEL
    if CLASSES[category] == "disc":
        return category, square <= pixels**2 + pixels  # to the middle between this pixel and the next
    if CLASSES[category] == "ring":
        thick = max(2, pixels * 35 // 100)
        return category, ((2 * pixels - thick) ** 2 <= 4 * square) & (4 * square <= (2 * pixels + thick) ** 2)
    return category, _inside(_corners(CLASSES[category], radius, angle), x, y)


def _corners(name: str, radius: int, angle: int) -> list[tuple[int, int]]:
    """Corners x,y of a square, triangle or star around 0, in whole pixels."""
    corners = {"square": 4, "triangle": 3, "star": 10}[name]
    points = []
    for i in range(corners):
        x, y = _directions()[(angle + i * TURN // corners) % TURN]
        reach = radius * 45 // 100 if name == "star" and i % 2 else radius
        half = UNIT * PIXEL // 2
        points.append(((x * reach + half) // (UNIT * PIXEL), (y * reach + half) // (UNIT * PIXEL)))
    return points


def _inside(corners: list[tuple[int, int]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which pixels x int64 [W], y int64 [H,1] lie in the polygon or on its edge, bool [H,W].

    The polygon is seen whole from 0, so it is made of the triangles of 0 and each of its edges.
    """
    inside = np.zeros((len(y), len(x)), bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        beyond_a, before_b = ax * y - ay * x >= 0, bx * y - by * x <= 0
        inside |= beyond_a & before_b & ((bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0)
    return inside


@lru_cache
def _radii(largest: int) -> list[int]:
    """Radii in parts of a pixel from ten pixels to `largest`, each 1/64 larger than the one before."""
    radii = [10 * PIXEL]
    while (larger := radii[-1] + radii[-1] // 64) <= largest:
        radii.append(larger)
    return radii


@lru_cache(maxsize=1)
def _directions() -> list[tuple[int, int]]:
    """TURN vectors x,y of length UNIT around the circle, each the one before turned by the same angle."""
    found, x, y = [], 1 << SCALE, 0
    half = 1 << (SCALE - 1)
    for _ in range(TURN):
        found.append(((x * UNIT + half) >> SCALE, (y * UNIT + half) >> SCALE))
        x, y = (x * COSINE - y * SINE) >> SCALE, (x * SINE + y * COSINE) >> SCALE
    return found
