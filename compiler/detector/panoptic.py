"""How instances and stuff are merged into panoptic segments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxgraft.errors import InputError


@dataclass(frozen=True)
class Combine:
    """MODEL.PANOPTIC_FPN.COMBINE: when an instance is hidden by surer ones (share of its area), the least area of stuff
    in pixels, and the least score of an instance."""

    overlap_threshold: float = 0.5
    stuff_area_limit: int = 4096
    instances_score_threshold: float = 0.5

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Combine:
        """From a sidecar's "panoptic" section; detectron2's defaults where it is silent. Raises InputError."""
        numbers: dict[str, Any] = {}
        for name in cls.__dataclass_fields__:
            if name not in settings:
                continue
            number = settings[name]
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not number >= 0:
                raise InputError(f"panoptic.{name} is {number!r}, expected a number of at least 0")
            numbers[name] = math.ceil(number) if name == "stuff_area_limit" else float(number)
        return cls(**numbers)
