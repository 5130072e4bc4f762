"""From the image to what the network reads first: every pixel, padding included."""

from __future__ import annotations

import numpy as np

from onnxgraft.ir.graph import Graph
from onnxgraft.proof.compare import compare_values
from onnxgraft.proof.cut import Cut, CutError
from onnxgraft.proof.feeds import build_feeds, file_feeds
from onnxgraft.proof.plan import Sides

_LIMIT = 1e-6  # of the largest magnitude: one rounding of a subtraction and a division


def compare_image(given: Graph, sides: Sides, normalized: str) -> str | None:
    """How the image that the network reads differs, or None.

    Args:
        given: the file's graph at the build's size, before it was folded.
        sides: the file's graph after folding, and the compiled one.
        normalized: what the network reads first, in the folded graph.

    Raises:
        CutError: the file's graph does not show what the network reads first.
    """
    readers = sides.file_tensor(normalized).outputs
    made = {t.name: t for node in given.nodes for t in node.outputs}
    reader = next((node for node in readers if node.outputs[0].name in made), None)
    if reader is None:
        raise CutError(f"the file has no node that reads the normalised image as {readers[0].name!r} does")
    at = next(index for index, tensor in enumerate(reader.inputs) if tensor.name == normalized)
    start = made[reader.outputs[0].name].inputs[0].inputs[at].name
    image, ctx, batch = sides.spec.image, sides.ctx, sides.ctx.batch
    rng = np.random.Generator(np.random.Philox(8))
    pictures = [rng.integers(0, 256, (image.height, image.width, 3)).astype(np.uint8) for _ in range(batch)]
    file = Cut(given, [t.name for t in given.gs.inputs], [start])
    build = Cut(sides.build, [t.name for t in sides.build.gs.inputs], [ctx.values.normalized])
    fed = build_feeds(ctx.io, pictures, (image.height, image.width), image.mean)
    found = build(fed)[ctx.values.normalized]
    for index, picture in enumerate(pictures):
        expected = file(file_feeds(given.gs.inputs, picture, image.order))[start]
        outcome = compare_values(expected.reshape(-1, *expected.shape[-3:]), found[index : index + 1], _LIMIT)
        if outcome.difference is not None:
            return outcome.difference
    return None
