"""The proof of a build: which pictures it takes, and when there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnxgraft.detector.sidecar import Sidecar
from onnxgraft.driver.plan import given_images
from onnxgraft.ir.bounds import Bounds
from onnxgraft.options import Options
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import NAMED_OUTPUTS
from onnxgraft.pipeline.syntax import Pipeline
from onnxgraft.proof.models import Delivered
from onnxgraft.proof.proof import Proof
from onnxgraft.proof.prove import prove
from onnxgraft.proof.witness import Witness


def prove_build(
    model: str,
    source: Path,
    pipeline: Pipeline,
    witness: Witness,
    options: Options,
    beside: Sidecar,
    progress: Callable[[str], None],
    proved: Path,
    ctx: Context,
) -> Proof | None:
    """What was proved of the passes that `witness` saw; None where nothing was to be, or no detector was made.

    Args:
        model: as the user named it: a golden graph has a picture of its own.
        source: the file.
        pipeline: what ran over it.
        witness: the graphs of that run.
        options: of the build.
        beside: the sidecar, which may name the channel order.
        progress: called with a word on what runs.
        proved: the file that is run on pictures: what the target gets, where ONNX Runtime computes that alike.
        ctx: after all passes.

    Raises:
        ProofError: the answers differ.
    """
    if not options.proof or witness.recognised is None or witness.finished is None:
        return None
    image = witness.recognised.ctx.spec().image
    shown = given_images(model, options.images, (image.height, image.width))
    number = max(options.proof_images, len(options.images))
    bounds = Bounds.times(options.bounds)
    typed = next((step.changes_answers for step in _after_rewrites(pipeline) if step.changes_answers), "")
    delivered = Delivered(proved, ctx.io, typed, options.precision if options.precision != "fp32" else "the delivered graph")
    order, exact = beside.channel_order, options.exact_padding or options.content_size is not None
    return prove(source, pipeline.passes, witness, shown, number, order, exact, bounds, progress, delivered)


def _after_rewrites(pipeline: Pipeline) -> list[Pass]:
    """The passes behind the named outputs: they type the graph and lower its plugins."""
    steps = list(pipeline.passes)
    ends = [index for index, step in enumerate(steps) if NAMED_OUTPUTS in step.provided()]
    return steps[ends[0] + 1 :] if ends else []
