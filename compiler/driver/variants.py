"""Canvases and batches beside a build's first one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from onnxgraft.errors import InputError
from onnxgraft.options import Count, Options, Size, coerce


def variants_of(options: Options) -> Iterator[tuple[str, Options]]:
    """The folder's name and the options of each variant that is asked for, in their order, each once.

    Raises:
        InputError: one is not HEIGHTxWIDTH or HEIGHTxWIDTH:BATCH, or has no effect.
    """
    if options.variants and options.passes:
        raise InputError("--variant has no effect beside --passes: write the canvas into the pipeline, in fix-input{...}")
    seen = {(options.size, options.batch)}
    for text in options.variants:
        canvas, _, batch = text.partition(":")
        size: Size = coerce(canvas, Size, "--variant")
        count: int = coerce(batch, Count, "--variant") if batch else options.batch
        if (size, count) not in seen:
            seen.add((size, count))
            yield f"{size}_batch{count}", replace(options, size=size, batch=count, variants=())
