"""The proof of a build: which pictures it takes, and when there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnxgraft.driver.plan import given_images
from onnxgraft.ir.bounds import Bounds
from onnxgraft.options import Options
from onnxgraft.pipeline.syntax import Pipeline
from onnxgraft.proof.proof import Proof
from onnxgraft.proof.prove import prove
from onnxgraft.proof.witness import Witness


def prove_build(
    model: str,
    source: Path,
    pipeline: Pipeline,
    witness: Witness,
    options: Options,
    order: str | None,
    progress: Callable[[str], None],
) -> Proof | None:
    """What was proved of the passes that `witness` saw; None where nothing was to be, or no detector was made.

    Args:
        model: as the user named it: a golden graph has a picture of its own.
        source: the file.
        pipeline: what ran over it.
        witness: the graphs of that run.
        options: of the build.
        order: the channel order that a sidecar names.
        progress: called with a word on what runs.

    Raises:
        ProofError: the answers differ.
    """
    if not options.proof or witness.recognised is None or witness.finished is None:
        return None
    image = witness.recognised.ctx.spec().image
    shown = given_images(model, options.images, (image.height, image.width))
    number = max(options.proof_images, len(options.images))
    bounds = Bounds.times(options.bounds)
    return prove(source, pipeline.passes, witness, shown, number, order, options.exact_padding, bounds, progress)
