"""From the image to what the network reads first: every pixel, padding included."""

from __future__ import annotations

import numpy as np

from onnxgraft.detector.spec import WHITE, ImageInput
from onnxgraft.ir.graph import Graph
from onnxgraft.proof.compare import compare_values
from onnxgraft.proof.cut import Cut, CutError
from onnxgraft.proof.feeds import build_feeds, file_feeds
from onnxgraft.proof.sides import Sides

_LIMIT = 1e-6  # of the largest magnitude: one rounding of a subtraction and a division


def first_read(given: Graph, folded: Graph, normalized: str) -> str:
    """What the network reads first in the file's graph before folding; `normalized` is its name after.

    Raises:
        CutError: no node of the file reads it.
    """
    made = {t.name: t for node in given.nodes for t in node.outputs}
    readers = [node for node in folded.nodes if any(t.name == normalized for t in node.inputs)]
    reader = next((node for node in readers if node.outputs[0].name in made), None)
    if reader is None:
        raise CutError("the file does not show what its network reads first")
    at = next(index for index, tensor in enumerate(reader.inputs) if tensor.name == normalized)
    return str(made[reader.outputs[0].name].inputs[0].inputs[at].name)


def white_level(given: Graph, image: ImageInput, start: str) -> float:
    """What white is in the file's input: 255, or 1 where it scales levels of 0..1 itself."""
    cut = Cut(given, [t.name for t in given.gs.inputs], [start])
    black, white = (
        cut(file_feeds(given.gs.inputs, flat, image.exported_order))[start][..., 0, 0].reshape(-1)
        for flat in (np.full((image.height, image.width, 3), level, np.uint8) for level in (0, 255))
    )
    steps = (white - black) * np.array(image.std) / WHITE  # of each channel: 1, or 255 where the input is levels of 0..1
    return 1.0 if np.all(np.abs(steps - WHITE) < 1) else WHITE


def compare_image(given: Graph, sides: Sides, start: str, white: float) -> str | None:
    """How the image that the network reads differs, or None.

    Args:
        given: the file's graph at the build's size, before it was folded.
        sides: the file's graph after folding, and the compiled one.
        start: what the network reads first, in `given`.
        white: the file's level of white.
    """
    image, ctx, batch = sides.spec.image, sides.ctx, sides.ctx.batch
    rng = np.random.Generator(np.random.Philox(8))
    pictures = [rng.integers(0, 256, (image.height, image.width, 3)).astype(np.uint8) for _ in range(batch)]
    file = Cut(given, [t.name for t in given.gs.inputs], [start])
    build = Cut(sides.build, [t.name for t in sides.build.gs.inputs], [ctx.values.normalized])
    fed = build_feeds(ctx.io, pictures, (image.height, image.width), image.mean)
    found = build(fed)[ctx.values.normalized]
    for index, picture in enumerate(pictures):
        expected = file(file_feeds(given.gs.inputs, picture, image.exported_order, white=white))[start]
        outcome = compare_values(expected.reshape(-1, *expected.shape[-3:]), found[index : index + 1], _LIMIT)
        if outcome.difference is not None:
            return outcome.difference
    return None
