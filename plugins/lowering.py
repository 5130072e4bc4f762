"""What the place of a plugin node in a network decides about its native form; None leaves an option to its default."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class LoweringOptions:
    """Options of one plugin node's native form, under the names that its plugin's `options` have."""

    def given(self) -> dict[str, Any]:
        """The options that are not None."""
        held = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in held.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class NmsLowering(LoweringOptions):
    """Of EfficientNMS_TRT and UncappedNMS."""

    grouping: Literal["flat", "box"] | None = None
    max_candidates: int | None = None
    below_threshold_tail: Literal[0, 1] | None = None
    presorted: Literal[0, 1] | None = None
    in_place: Literal[0, 1] | None = None


@dataclass(frozen=True, kw_only=True)
class RoiAlignLowering(LoweringOptions):
    """Of PyramidROIAlign_TRT."""

    level_rule: Literal["plugin", "detectron2"] | None = None


@dataclass(frozen=True, kw_only=True)
class DeformConvLowering(LoweringOptions):
    """Of ModulatedDeformConv2d."""

    multiply: Literal["fp32", "fp16", "bf16"] | None = None
