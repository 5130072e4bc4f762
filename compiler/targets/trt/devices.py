"""Which NVIDIA GPUs answer on this machine, asked of the driver itself (no CUDA package needed)."""

from __future__ import annotations

import ctypes
import functools
import sys

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@functools.lru_cache(maxsize=1)
def compute_capabilities() -> tuple[tuple[int, int], ...]:
    """Compute capability (major, minor) of each GPU; empty without a driver or without a GPU."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(
        (_attribute(cuda, _CAPABILITY_MAJOR, i), _attribute(cuda, _CAPABILITY_MINOR, i))
        for i in range(count.value)
    )


def _attribute(cuda: ctypes.CDLL, attribute: int, index: int) -> int:
    device, value = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value


def no_gpu() -> str | None:
    """None when a GPU answers, or the reason in one line."""
    return None if compute_capabilities() else "no NVIDIA GPU answers on this machine"
