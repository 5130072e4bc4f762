"""TensorRT 10 and 11: builds on and for the GPU of this machine, with the detection plugins."""

from __future__ import annotations

from onnxgraft.targets import traits
from onnxgraft.targets.trt.devices import no_gpu
from onnxgraft.targets.trt.dialect import TENSORRT
from onnxgraft.targets.trt.target import NvidiaTarget


class TensorRT(NvidiaTarget):
    """The extra [tensorrt]; its plugin library brings the ops that our graphs use.

    EfficientNMS_TRT and PyramidROIAlign_TRT are deprecated and load in every version up to 11.4;
    lower them with lower-plugins for the day they are gone.
    """

    name = "tensorrt"
    traits = traits.TENSORRT
    dialect = TENSORRT

    def available(self) -> str | None:
        """Its builder times kernels, so it needs the module and a GPU that answers."""
        return self.dialect.missing() or no_gpu()
