"""Lists NVIDIA GPUs with their driver's management library (NVML); CUDA is not initialized."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from vision_infer.core.errors import EngineError


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU."""

    index: int
    """The number, as NVML counts them."""
    name: str
    """The name, such as ``NVIDIA L4``."""
    compute_capability: str
    """The compute capability, such as ``8.9``; empty if it is not known."""
    total_bytes: int
    free_bytes: int
    driver: str
    mig: bool
    """Whether it is divided into MIG instances."""


class NoGpuError(EngineError):
    """The driver reports no GPU, or there is no driver.

    Args:
        broken: Whether there is hardware or a driver that does not work.
    """

    def __init__(self, message: str, hint: str = "", broken: bool = False) -> None:
        super().__init__(message, hint)
        self.broken = broken


def list_gpus() -> list[Gpu]:
    """Return the GPUs of this machine.

    Raises:
        NoGpuError: There is none, or it cannot be determined; the message says why.
    """
    try:
        nvml = import_module("pynvml")
    except ImportError:
        raise NoGpuError("GPUs cannot be listed: nvidia-ml-py is not installed", "Run: pip install 'nvidia-ml-py>=13'") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise _explain(nvml, error) from None
    try:
        found = [_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        raise _explain(nvml, error) from None
    finally:
        nvml.nvmlShutdown()
    if not found:
        raise NoGpuError("NVIDIA's driver is installed but reports no GPU", "In a container, use --gpus all.", broken=True)
    return found


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    capability = _ask(nvml, lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle), ())
    mig = _ask(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle)[0], 0)
    return Gpu(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        compute_capability=".".join(map(str, capability)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        driver=_text(nvml.nvmlSystemGetDriverVersion()),
        mig=bool(mig),
    )


def _ask(nvml: Any, ask: Any, otherwise: Any) -> Any:
    """Return a value that not every GPU reports."""
    try:
        return ask()
    except nvml.NVMLError:
        return otherwise


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _explain(nvml: Any, error: Exception) -> NoGpuError:
    code = getattr(error, "value", None)
    if code == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return NoGpuError("no NVIDIA GPU: its driver is not installed")
    if code == nvml.NVML_ERROR_NO_PERMISSION:
        message = "this user has no permission to use NVIDIA's driver"
        return NoGpuError(message, "Give the user access to /dev/nvidia* (group video or render).", broken=True)
    if code == nvml.NVML_ERROR_DRIVER_NOT_LOADED:
        return NoGpuError("NVIDIA's driver is installed but not loaded", "Run modprobe nvidia, and see dmesg.", broken=True)
    if code == getattr(nvml, "NVML_ERROR_LIB_RM_VERSION_MISMATCH", -1):
        message = "NVIDIA's driver and its library have different versions"
        return NoGpuError(message, "Restart the machine after an upgrade of the driver.", broken=True)
    return NoGpuError(f"NVIDIA's driver reports an error: {error}", "See nvidia-smi and dmesg.", broken=True)
