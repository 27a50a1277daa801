"""Lists the NVIDIA GPUs that this process may use: CUDA gives their order, and NVML the details; no context is created."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu.accelerator import NoGpuError


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU."""

    index: int
    """The number, as CUDA counts them. Without CUDA for Python, as NVML counts them, which can be another order."""
    name: str
    """The name, such as ``NVIDIA L4``."""
    compute_capability: str
    """The compute capability, such as ``8.9``; empty if it is not known."""
    total_bytes: int
    free_bytes: int
    driver: str
    mig: bool
    """Whether it is a MIG instance, whose memory is given. Without CUDA for Python: whether it is divided into instances."""


def list_gpus() -> list[Gpu]:
    """Return the GPUs that CUDA reports to this process, in CUDA's order: ``cuda:0`` is the first one.

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
        count = nvml.nvmlDeviceGetCount()
        found = [_gpu(nvml, *each) for each in enumerate(_handles(nvml, count))] if count else []
    except nvml.NVMLError as error:
        raise _explain(nvml, error) from None
    finally:
        nvml.nvmlShutdown()
    if not found:
        raise NoGpuError("NVIDIA's driver is installed but reports no GPU", "In a container, use --gpus all.", broken=True)
    return found


def _handles(nvml: Any, count: int) -> list[Any]:
    """Return NVML's handles in CUDA's order, found by UUID: CUDA respects CUDA_VISIBLE_DEVICES, and NVML does not."""
    try:
        from vision_infer.engine.gpu import cuda
    except EngineError:  # the bindings are not installed
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    try:
        uuids = [cuda.device_uuid(index) for index in range(cuda.device_count())]
    except EngineError as error:
        raise NoGpuError(error.message, error.hint, broken=True) from error
    by_uuid = nvml.nvmlDeviceGetHandleByUUID
    return [_ask(nvml, partial(by_uuid, f"GPU-{uuid}"), None) or by_uuid(f"MIG-{uuid}") for uuid in uuids]


def _gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    whole = _ask(nvml, lambda: nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), None)  # of a MIG instance
    capability = _ask(nvml, lambda: nvml.nvmlDeviceGetCudaComputeCapability(whole or handle), ())
    mig = whole is not None or _ask(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle)[0], 0)
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
    if code == getattr(nvml, "NVML_ERROR_GPU_IS_LOST", -1):
        return NoGpuError("a GPU no longer answers", "See dmesg for Xid errors, and restart the machine.", broken=True)
    return NoGpuError(f"NVIDIA's driver reports an error: {error}", "See nvidia-smi and dmesg.", broken=True)
