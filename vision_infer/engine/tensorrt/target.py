"""Which GPUs a plan is built for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vision_infer.core.errors import EngineError, UsageError
from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.plan_file import capability_number


@dataclass(frozen=True, slots=True)
class LocalGpu:
    """A GPU of this machine."""

    name: str
    """such as ``NVIDIA L4``"""
    capability: str
    """compute capability, such as ``sm_89``"""

    @property
    def mig(self) -> str:
        """Which part of a GPU it is, such as ``1g.10gb``; empty: a whole one. CUDA says it at the end of the name."""
        return self.name.partition(" MIG ")[2]


@dataclass(frozen=True, slots=True)
class GpuTarget:
    """What a plan is built for."""

    capabilities: tuple[str, ...]
    """such as ``sm_89``, ascending"""
    gpu: str = ""
    """of TensorRT only: the name of the very GPU, for its plans hold kernels that were timed on it"""
    mig: str = ""
    """of TensorRT only: which part of that GPU it was"""
    index: int = 0
    """of TensorRT only: which of this machine's GPUs builds it"""

    def told(self) -> str:
        """As it stands in the key of the engine cache."""
        return " ".join((*([self.gpu] if self.gpu else []), *self.capabilities))


FindGpu = Callable[[int], LocalGpu | None]


def find_gpu(index: int = 0) -> LocalGpu | None:
    """A GPU of this machine, of those that CUDA shows; None where there is none, or no driver."""
    try:
        from cuda.bindings import driver
    except ImportError:
        return None

    def ask(function: str, *arguments: object) -> object:
        status, *values = getattr(driver, function)(*arguments)
        if int(status) != 0:
            raise RuntimeError(function)
        return values[0] if values else None

    attribute = driver.CUdevice_attribute
    try:
        ask("cuInit", 0)
        device = ask("cuDeviceGet", index)
        name = ask("cuDeviceGetName", 100, device)
        major = ask("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
        minor = ask("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    except (RuntimeError, ImportError, OSError):  # the driver's library is missing, or there is no such device
        return None
    text = name.split(b"\0")[0].decode(errors="replace") if isinstance(name, bytes) else str(name)
    return LocalGpu(text, f"sm_{major}{minor}")


def choose_target(
    api: Api, wanted: Sequence[str], *, anywhere: bool = False, index: int = 0, find: FindGpu = find_gpu
) -> GpuTarget:
    """The GPUs that a plan is to be built for.

    Args:
        api: the runtime.
        wanted: compute capabilities, as they were typed; empty: this machine's GPU.
        anywhere: of TensorRT: for every GPU from Ampere on.
        index: which of this machine's GPUs.
        find: finds it.

    Raises:
        UsageError: a compute capability is not well named, or the runtime does not build for it.
        EngineError: there is no GPU here, and it is needed.
    """
    named = _parse(wanted)
    possible = api.capabilities()
    for one in named:
        if api.builds_ahead and one not in possible:
            raise UsageError(f"--for {one}: {api.title} does not build for it", f"use {', '.join(possible)}")
    if api.builds_ahead and named:
        return GpuTarget(named)
    gpu = find(index)
    if gpu is None:
        if api.builds_ahead:
            raise EngineError("there is no NVIDIA GPU here, or no driver for it", f"name one with --for: {', '.join(possible)}")
        raise EngineError(
            f"{api.title} builds on the GPU that it is for, and there is none here, or no driver for it",
            "build there, or use --runtime tensorrt-rtx",
        )
    if named and named != (gpu.capability,):
        hint = "leave --for out, or use --runtime tensorrt-rtx"
        raise UsageError(f"--for {' '.join(named)}: {api.title} builds for this machine's GPU ({gpu.capability}) only", hint)
    if not api.builds_ahead:
        if anywhere:
            return GpuTarget(("sm_80",), index=index)
        return GpuTarget((gpu.capability,), gpu.name, gpu.mig, index)
    if gpu.capability not in possible:
        told = f"{api.title} does not run on {gpu.name} ({gpu.capability})"
        raise EngineError(told, f"it runs on {', '.join(possible)}; use --runtime tensorrt, or --engine onnxruntime")
    return GpuTarget((gpu.capability,))


def use_gpu(index: int) -> None:
    """Make a GPU the calling thread's own.

    Raises:
        EngineError: there is none.
    """
    from vision_infer.engine.gpu.cuda import CudaDevice

    CudaDevice(index)


def _parse(wanted: Sequence[str]) -> tuple[str, ...]:
    found = set()
    for text in wanted:
        if not re.fullmatch(r"sm_[0-9]{2,3}", text):
            raise UsageError(f"--for {text}: is no compute capability", "write it as sm_89 (RTX 40, L4) or sm_120 (RTX 50)")
        found.add(text)
    return tuple(sorted(found, key=capability_number))
