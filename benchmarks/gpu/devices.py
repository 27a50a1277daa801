"""The GPUs of this machine according to NVIDIA's driver. Standard library only."""

from __future__ import annotations

import ctypes
from dataclasses import asdict, dataclass

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""Values of CUdevice_attribute."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a part of one."""

    name: str
    capability: int
    """The compute capability, such as 89."""
    memory_bytes: int

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self)


class NoDeviceError(Exception):
    """There is no GPU here; the message gives the reason."""


def find_devices(library: str = "libcuda.so.1") -> tuple[list[Device], str]:
    """Return the GPUs, and the CUDA version that the driver supports, such as ``13.0``.

    Raises:
        NoDeviceError: If there is no GPU.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        raise NoDeviceError("NVIDIA's driver is not installed") from None
    count, version = ctypes.c_int(), ctypes.c_int()
    status = cuda.cuInit(0)
    if status or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise NoDeviceError(f"NVIDIA's driver finds no GPU (CUDA error {status})")
    cuda.cuDriverGetVersion(ctypes.byref(version))
    return [_device(cuda, index) for index in range(count.value)], f"{version.value // 1000}.{version.value % 1000 // 10}"


def _device(cuda: ctypes.CDLL, index: int) -> Device:
    name, handle = ctypes.create_string_buffer(128), ctypes.c_int()
    major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(handle), index)
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    return Device(name.value.decode(errors="replace"), 10 * major.value + minor.value, memory.value)
