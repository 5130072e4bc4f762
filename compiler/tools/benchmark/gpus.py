"""Peak rates of named GPUs, from NVIDIA's data sheets: dense, without sparsity, at boost clocks."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """What a GPU can do at most.

    Attributes:
        fp32: TFLOP/s outside the tensor cores (fp32 builds forbid TF32), two a multiply-add.
        fp16: TFLOP/s of the tensor cores, with fp16 sums where that is faster (GeForce: half of it with fp32 sums).
        int8: TOP/s of the tensor cores.
        memory: GB/s of its memory.
    """

    name: str
    fp32: float
    fp16: float
    int8: float
    memory: float

    def seconds(self, type_: str, macs: float, size: float) -> float:
        """The least time for multiply-adds of a type ("fp32", "fp16", "int8") that move `size` bytes at the same time."""
        rate: float = getattr(self, type_)
        return max(2 * macs / (rate * 1e12), size / (self.memory * 1e9))


GPUS = (
    Gpu("A100", 19.5, 312, 624, 2039),
    Gpu("H100", 66.9, 989, 1979, 3350),
    Gpu("L4", 30.3, 121, 242, 300),
    Gpu("L40S", 91.6, 362, 733, 864),
    Gpu("T4", 8.1, 65, 130, 320),
    Gpu("RTX 3060", 12.7, 51, 102, 360),
    Gpu("RTX 4090", 82.6, 330, 661, 1008),
    Gpu("RTX 5090", 104.8, 419, 838, 1792),
    Gpu("AGX Orin", 5.3, 42, 85, 205),
    Gpu("AGX Thor", 8.1, 258, 517, 273),
)


def gpu_named(name: str) -> Gpu | None:
    """The GPU that a driver calls `name`, such as "NVIDIA H100 80GB HBM3"; None for one whose rates are not listed here."""
    words = set(re.split(r"[^0-9A-Za-z]+", name))
    return next((gpu for gpu in GPUS if set(gpu.name.split()) <= words and not {"Ti", "SUPER", "Laptop"} & words), None)
