"""What a build will run, from its options: target, pipeline, ranges, pictures; options without effect are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxgraft import targets
from onnxgraft.errors import InputError, TargetError
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog, scenes
from onnxgraft.options import Declared, Options, without_effect
from onnxgraft.passes.default import default_pipeline, known_passes
from onnxgraft.pipeline.facts import LOWERED
from onnxgraft.pipeline.syntax import Pipeline
from onnxgraft.quantization.ranges import Provider
from onnxgraft.runtime.images import ResizeRule, place, read_image
from onnxgraft.targets.releases import release_of
from onnxgraft.targets.traits import TRAITS


def target_of(options: Options) -> tuple[targets.Target, str]:
    """The target, and why it was chosen. Raises InputError for a release of a target that has none to choose from."""
    if options.release:
        name = release_of(options.release).name
        chosen = next(traits.name for traits in TRAITS.values() if traits.releases)
        if options.target not in ("auto", chosen):
            raise InputError(f"--for {options.release}: is a release of {chosen}: leave --target {options.target} out")
        return targets.get(chosen), f"--for {options.release}: {chosen} {name}"
    return targets.auto() if options.target == "auto" else (targets.get(options.target), "asked for")


def planned(options: Options) -> tuple[targets.Target, str, Pipeline]:
    """Target, why it was chosen, and passes. Raises InputError, and TargetError where no engine can be built for it here."""
    target, why = target_of(options)
    pipeline = pipeline_of(options, target.name)
    builds = options.engine and not options.release and any(LOWERED in step.provided() for step in pipeline.passes)
    reason = target.available() if builds else None
    if reason is not None:
        elsewhere = "model.onnx, and the command that builds it elsewhere"
        also = " (--for 10.3 for another release)" if target.traits.releases else ""
        raise TargetError(f"{reason}; or give --no-engine: {elsewhere}{also}")
    return target, why, pipeline


def pipeline_of(options: Options, target: str) -> Pipeline:
    """The passes that are asked for. Raises InputError, also for options that none of them takes."""
    registry = known_passes(options.load)
    own = Pipeline.parse(options.passes, registry) if options.passes else None
    pipeline = own or default_pipeline(options, target, registry)
    _refuse_without_effect(options, pipeline)
    if options.print_after:
        pipeline.index(options.print_after)
    for name in options.skip:
        pipeline = pipeline.skip(name)
    return pipeline.stop_after(options.stop_after) if options.stop_after else pipeline


def _refuse_without_effect(options: Options, pipeline: Pipeline) -> None:
    names = {step.name() for step in pipeline.passes}
    for option in without_effect(options, names):
        what = option.opt.when or f"a pipeline with {' or '.join(option.opt.passes)}"
        raise InputError(f"{option.flag} has no effect here: give {what}")
    if options.passes:
        for option in _written_in_text(options):
            field = f"{option.opt.passes[0]}{{...}}"
            raise InputError(f"{option.flag} has no effect beside --passes: write it into the pipeline, in {field}")


def _written_in_text(options: Options) -> list[Declared]:
    """Given options that a pipeline's own text decides; the size of --check-numerics' pictures is not one."""
    from_text = without_effect(options, ())
    return [o for o in from_text if o.opt.to and not (o.name == "size" and (options.check_numerics or options.images))]


def ranges_of(model: str, options: Options, rule: ResizeRule, progress: Callable[[str], None]) -> Provider:
    """Where the ranges of int8 come from. Raises Refusal or InputError where int8 is asked for and they cannot come."""
    provider = Provider(
        model, CACHE, options.calib, options.calib_method, options.calib_percentile, options.calib_images, progress, rule,
    )  # fmt: skip
    if options.precision == "int8":
        provider.check()
    return provider


def check_images(model: str, images: Sequence[Path], size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Pictures to compare detections on, uint8 [H, W, 3] BGR of the canvas size: those given, a golden graph's, or noise."""
    return given_images(model, images, size) or [noise(size)]


def given_images(model: str, images: Sequence[Path], size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Pictures that were given, or a golden graph's own where it fits the canvas; maybe none."""
    if images:
        grey = (127.0, 127.0, 127.0)
        placed = (place(read_image(path), size, mean=grey, layout="NHWC", dtype="uint8")[0] for path in images)
        return [np.asarray(tensor, np.uint8) for tensor in placed]
    if model in catalog.names():
        scene = scenes.scene(0)
        if scene.shape[:2] == size:
            return [scene]
    return []


def noise(size: Sequence[int]) -> NDArray[np.uint8]:
    """A smooth random picture of (height, width), the same on every machine: uint8 [H, W, 3]."""
    rows, columns = size[0] // 32 + 1, size[1] // 32 + 1
    bits = np.random.Philox(11).random_raw(3 * rows * columns)
    coarse = (bits % 256).astype(np.uint8).reshape(rows, columns, 3)
    return np.ascontiguousarray(coarse.repeat(32, 0).repeat(32, 1)[: size[0], : size[1]])


