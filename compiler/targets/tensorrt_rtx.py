"""TensorRT for RTX: builds on any machine, without a GPU, for GPUs that are named or for all."""

from __future__ import annotations

from .dialect import TENSORRT_RTX
from .nvidia import NvidiaTarget


class TensorRTRTX(NvidiaTarget):
    """No detection plugins: NMS and RoIAlign reach it as standard ops.

    An engine loads on compute capabilities 8.0, 8.6, 8.9, 12.0 and later, or on those named in
    `compute_capabilities` (7.5 must be named, and takes no fp32 MatMul).
    """

    name = "tensorrt-rtx"
    dialect = TENSORRT_RTX

    def available(self) -> str | None:
        """Its builder works ahead of time: the module is enough."""
        return self.dialect.missing()
