"""NVIDIA's GPUs as their driver's management library (NVML) tells of them; nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from vision_infer.core.errors import EngineError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    compute_capability: str
    """``8.9``; empty where it is not told"""
    total_bytes: int
    free_bytes: int
    driver: str
    """version"""
    mig: bool
    """whether it is divided into instances"""


class NoGpuError(EngineError):
    """NVML tells of no GPU.

    Args:
        message: why.
        hint: what to do.
        broken: something is here that does not work, and not merely nothing.
    """

    def __init__(self, message: str, hint: str = "", broken: bool = False) -> None:
        super().__init__(message, hint)
        self.broken = broken


def list_gpus() -> list[Gpu]:
    """The GPUs that this process may use.

    Raises:
        NoGpuError: there is none, or it cannot be told; says why.
    """
    try:
        nvml = import_module("pynvml")
    except ImportError:
        raise NoGpuError("GPUs cannot be told: nvidia-ml-py is not installed", "pip install 'nvidia-ml-py>=13'") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise _explained(nvml, error) from None
    try:
        found = [_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        raise _explained(nvml, error) from None
    finally:
        nvml.nvmlShutdown()
    if not found:
        raise NoGpuError("NVIDIA's driver is here, and sees no GPU", "in a container: --gpus all", broken=True)
    return found


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    capability = _asked(nvml, lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle), ())
    mig = _asked(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle)[0], 0)
    return Gpu(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        compute_capability=".".join(map(str, capability)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        driver=_text(nvml.nvmlSystemGetDriverVersion()),
        mig=bool(mig),
    )


def _asked(nvml: Any, ask: Any, otherwise: Any) -> Any:
    """What not every GPU tells."""
    try:
        return ask()
    except nvml.NVMLError:
        return otherwise


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _explained(nvml: Any, error: Exception) -> NoGpuError:
    code = getattr(error, "value", None)
    if code == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return NoGpuError("no NVIDIA GPU: its driver is not installed here")
    if code == nvml.NVML_ERROR_NO_PERMISSION:
        message = "this user may not ask NVIDIA's driver for its GPUs"
        return NoGpuError(message, "let the user read and write /dev/nvidia* (group video or render)", broken=True)
    if code == nvml.NVML_ERROR_DRIVER_NOT_LOADED:
        return NoGpuError("NVIDIA's driver is installed and not running", "modprobe nvidia; see dmesg", broken=True)
    if code == getattr(nvml, "NVML_ERROR_LIB_RM_VERSION_MISMATCH", -1):
        message = "NVIDIA's driver and its library are of different versions"
        return NoGpuError(message, "restart the machine, as after an upgrade of the driver", broken=True)
    return NoGpuError(f"NVIDIA's driver gives an error: {error}", "see nvidia-smi and dmesg", broken=True)
