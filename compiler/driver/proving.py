"""The proof of a build: which pictures it takes, and when there is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from onnxgraft.atomic import scratch
from onnxgraft.detector.sidecar import Sidecar
from onnxgraft.driver.plan import given_images
from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.evaluate import run_everywhere
from onnxgraft.options import Options
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import LOWERED, NAMED_OUTPUTS
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.syntax import Pipeline
from onnxgraft.plugins import REGISTRY
from onnxgraft.proof.models import Delivered
from onnxgraft.proof.proof import Proof
from onnxgraft.proof.prove import prove
from onnxgraft.proof.witness import Kept, Witness
from onnxgraft.report.drawn import draw_detections

NATIVE = "the native form"  # as its line names it


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
        proved: the file that is run on pictures: what the target gets, where ONNX Runtime computes that alike. Beside it, the
            user's pictures or a golden graph's are drawn with what was found on them.
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
    kind = options.precision if options.precision != "fp32" else "the delivered graph"
    order, exact = beside.channel_order, options.exact_padding or options.content_size is not None
    show = partial(draw_detections, proved.parent, names=beside.class_names)
    with scratch() as folder:
        native = _native_form(pipeline, witness.finished, folder) if typed else None
        delivered = Delivered(proved, ctx.io, typed, kind, native)
        return prove(source, pipeline.passes, witness, shown, number, order, exact, bounds, progress, delivered, show)


def _native_form(pipeline: Pipeline, finished: Kept, folder: Path) -> Delivered | None:
    """The graph lowered as its target has it, but not typed; None where plugins stay functions, or only the target has them."""
    graph, ctx = finished.graph(), finished.ctx.copy()
    steps = [step for step in _after_rewrites(pipeline) if not step.changes_answers]
    known = {fact for step in steps for fact in step.required() if fact.holds and fact.holds(graph, ctx) is None}
    PassManager(steps, given={*ctx.facts, *known}, fingerprints=False).run(graph, ctx)
    if LOWERED.name not in ctx.facts or any(node.op in REGISTRY for node in graph.nodes):
        return None
    run_everywhere(graph)
    graph.save(folder / NATIVE)
    return Delivered(folder / NATIVE, ctx.io)


def _after_rewrites(pipeline: Pipeline) -> list[Pass]:
    """The passes behind the named outputs: they type the graph and lower its plugins."""
    steps = list(pipeline.passes)
    ends = [index for index, step in enumerate(steps) if NAMED_OUTPUTS in step.provided()]
    return steps[ends[0] + 1 :] if ends else []
