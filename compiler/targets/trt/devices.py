"""Which NVIDIA GPUs answer on this machine, asked of the driver itself (no CUDA package needed)."""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@dataclass(frozen=True)
class Device:
    """A GPU as its driver names it: compute capability (major, minor), memory in MiB."""

    name: str
    capability: tuple[int, int]
    memory_mib: int


def _driver() -> ctypes.CDLL | None:
    """The driver's library, ready to be asked; None without a driver or without a GPU that it can use."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    return cuda if cuda.cuInit(0) == 0 else None


def _count(cuda: ctypes.CDLL) -> int:
    count = ctypes.c_int()
    return count.value if cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


@functools.lru_cache(maxsize=1)
def compute_capabilities() -> tuple[tuple[int, int], ...]:
    """Compute capability (major, minor) of each GPU; empty without a driver or without a GPU."""
    cuda = _driver()
    return () if cuda is None else tuple(_capability(cuda, index) for index in range(_count(cuda)))


def devices() -> tuple[Device, ...]:
    """Every GPU; empty without a driver or without a GPU."""
    cuda = _driver()
    return () if cuda is None else tuple(_device(cuda, index) for index in range(_count(cuda)))


def cuda_version() -> str:
    """The newest CUDA that the driver runs, "13.0"; empty without a driver."""
    cuda, version = _driver(), ctypes.c_int()
    if cuda is None or cuda.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def driver_version() -> str:
    """The driver's own version, "580.159.04"; empty where it does not say."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return ""
    text = ctypes.create_string_buffer(96)
    if nvml.nvmlInit_v2() != 0 or nvml.nvmlSystemGetDriverVersion(text, len(text)) != 0:
        return ""
    return text.value.decode(errors="replace")


def _device(cuda: ctypes.CDLL, index: int) -> Device:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Device(name.value.decode(errors="replace"), _capability(cuda, index), memory.value >> 20)


def _capability(cuda: ctypes.CDLL, index: int) -> tuple[int, int]:
    return _attribute(cuda, _CAPABILITY_MAJOR, index), _attribute(cuda, _CAPABILITY_MINOR, index)


def _attribute(cuda: ctypes.CDLL, attribute: int, index: int) -> int:
    device, value = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value


def no_gpu() -> str | None:
    """None when a GPU answers, or the reason in one line."""
    return None if compute_capabilities() else "no NVIDIA GPU answers on this machine"
