"""Suppression by ranks: scores that are distinct and exact, so that ties keep their order and what did not enter is told from
what did by no rounding."""

from __future__ import annotations

import numpy as np

from onnxgraft.ir.value import Value, constant, emit, where


def ranks_of(enters: Value, rows: int) -> Value:
    """float32 [G, rows, 1]: rows, rows - 1, ... 1 for what enters of each group, bool [G, rows] best first, else 0."""
    order = constant("order", np.arange(rows, 0, -1, dtype=np.float32).reshape(1, rows))
    return where(enters, order, constant("none", 0.0)).named("rank").unsqueeze(2, hint="last").named("ranks")


def values_of_ranks(found: Value, values: Value, never: float, hints: tuple[str, str]) -> tuple[Value, Value]:
    """(values [G, M] of what survived, `never` where nothing did; bool [G, M], where something did).

    Args:
        found: ranks float32 [G, M] that a suppression gives out, K for a group's best, 0 for none.
        values: of what entered, [G, K], best first.
        hints: what a value and a group are called.
    """
    value, group = hints
    rows = int(values.shape[1])
    real = (found > constant("none", 0.0)).named("real")
    rank = found.max(constant("last", 1.0)).named("rank_or_last")
    behind = emit(rank.backend, "Sub", constant("rows", float(rows)), rank).named("behind_the_best")
    place = behind.cast(np.int64).named(f"place_in_{group}")
    of_each = where(real, values.take_along(place, axis=1).named(value), constant("never", never)).named(f"{value}_of_each")
    return of_each, real
