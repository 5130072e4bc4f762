"""TensorRT for RTX: builds on any machine, without a GPU, for GPUs that are named or for all."""

from __future__ import annotations

from onnxgraft.targets import traits
from onnxgraft.targets.trt import devices
from onnxgraft.targets.trt.dialect import TENSORRT_RTX
from onnxgraft.targets.trt.target import NvidiaTarget

_RUNS_ON = {(7, 5), (8, 0), (8, 6), (8, 9)}  # and every 12.x


class TensorRTRTX(NvidiaTarget):
    """No detection plugins: NMS and RoIAlign reach it as standard ops.

    An engine loads on compute capabilities 8.0, 8.6, 8.9, 12.0 and later, or on those named in
    `compute_capabilities` (7.5 must be named, and takes no fp32 MatMul).
    """

    name = "tensorrt-rtx"
    traits = traits.TENSORRT_RTX
    dialect = TENSORRT_RTX

    def can_run(self) -> str | None:
        """It needs a GPU of a capability that it knows; data centre GPUs (9.0, 10.0) are not."""
        reason = super().can_run()
        found = devices.compute_capabilities()
        if reason is None and not any(c in _RUNS_ON or c[0] == 12 for c in found):
            major, minor = found[0]
            reason = f"TensorRT for RTX does not run on compute capability {major}.{minor}"
        return reason

    def available(self) -> str | None:
        """Its builder works ahead of time: the module is enough."""
        return self.dialect.missing()
