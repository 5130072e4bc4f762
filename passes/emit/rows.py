"""Rows of batched tensors: picked, ranked, and handed to the part of an export that still takes one image."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import DenseLevel, RPNLevel
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.value import Value, constant


def first_image(tensor: Value, batch: int) -> Value:
    """Row 0 of a batched tensor [N, ...], rank kept; the tensor itself when the batch is one."""
    return tensor if batch == 1 else tensor[0:1].named("first")


def largest(values: Value, k: int, hints: tuple[str, str], count: str = "k") -> tuple[Value, Value]:
    """The k largest of each row of [N, n], in order, and their int64 places, [N, k] each; `count` names the constant k."""
    return values.topk(constant(count, [k]), hints, axis=1, largest=1, sorted=1)


def by_location(
    maps: Value, batch: int, level: RPNLevel | DenseLevel, size: int, hints: tuple[str, str, str], flat: str
) -> Value:
    """permute_to_N_HWA_K of detectron2: [N, A * size, H, W] -> [N, H * W * A, size]."""
    split, moved, joined = hints
    per_anchor = maps.reshape(batch, level.anchors, size, level.height, level.width, hint="per_anchor").named(split)
    return per_anchor.transpose(0, 3, 4, 1, 2).named(moved).reshape(batch, -1, size, hint=flat).named(joined)


def rows_of(table: Value, index: Value, hints: tuple[str, str]) -> Value:
    """Rows [N, k, size] of each image's own table [N, rows, size], by int64 [N, k]."""
    rows, selected = hints
    return table.take_nd(index.unsqueeze(2, hint="last").named(rows), batch_dims=1).named(selected)


def of_classes(b: Builder, per_class: Value, classes: gs.Tensor, channels: int, size: int, first: int = 0) -> Value:
    """Of values [rows, channels, ...], `size` a channel, those of each row's class: [rows, size].

    Args:
        classes: int32 [N, D], N * D = rows, counted from 0; class 0 is in channel `first`.
    """
    rows = int(np.prod(classes.shape))
    flat = per_class.reshape(rows * channels, size, hint="per_class").named("per_class")
    kinds = b.of(classes).reshape(rows, hint="rows").named("class")
    of_row = constant("first_of_row", np.arange(rows, dtype=np.int32) * np.int32(channels) + np.int32(first))
    return flat.take((kinds + of_row).named("index")).named("of_class")


def first_valid_rows(b: Builder, valid: Value, batch: int) -> Value:
    """Row numbers, int64 [found], of the first image's real rows among bool [N, P]."""
    flat = first_image(valid, batch).reshape(-1, hint="flat").named("first_valid")
    flat.handle.shape = None  # it is fixed, but only NonZero reads it: the recorded texts of this stage leave it open
    found = b.op("NonZero", [flat], "found", dtype=np.int64, shape=[1, f"{b.prefix}/rows"])
    return b.of(found).squeeze(0, hint="axis").named("valid_rows")
