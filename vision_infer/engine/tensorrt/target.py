"""Chooses the GPUs that a plan is built for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vision_infer.core.errors import EngineError, UsageError
from vision_infer.engine.device import has_driver
from vision_infer.engine.tensorrt.names import capability_number

if TYPE_CHECKING:
    from vision_infer.engine.tensorrt.api import Api


@dataclass(frozen=True, slots=True)
class LocalGpu:
    """A GPU of this machine."""

    name: str
    """The name, such as ``NVIDIA L4``."""
    capability: str
    """The compute capability, such as ``sm_89``."""

    @property
    def mig(self) -> str:
        """The MIG instance, such as ``1g.10gb``, which CUDA reports at the end of the name; empty: a whole GPU."""
        return self.name.partition(" MIG ")[2]


@dataclass(frozen=True, slots=True)
class GpuTarget:
    """The GPUs that a plan is built for."""

    capabilities: tuple[str, ...]
    """The compute capabilities, such as ``sm_89``, ascending."""
    gpu: str = ""
    """TensorRT only: the name of the exact GPU, because its plans contain kernels that were timed on it."""
    mig: str = ""
    """TensorRT only: the MIG instance of that GPU."""
    index: int = 0
    """TensorRT only: the number of the GPU that builds it."""

    def describe(self) -> str:
        """Return the device, as the cache key contains it."""
        return " ".join((*([self.gpu] if self.gpu else []), *self.capabilities))


FindGpu = Callable[[int], LocalGpu | None]


def find_gpu(index: int = 0) -> LocalGpu | None:
    """Return a GPU of this machine, of those that CUDA reports; None if it does not exist, or there is no driver."""
    if not has_driver():
        return None
    try:
        from vision_infer.engine.gpu.cuda import device_kind

        return LocalGpu(*device_kind(index))
    except (EngineError, RuntimeError):  # no bindings, no such GPU, or a library that is not the driver's
        return None


def choose_target(
    api: Api, wanted: Sequence[str], *, anywhere: bool = False, index: int = 0, find: FindGpu = find_gpu
) -> GpuTarget:
    """Return the GPUs that a plan is built for.

    Args:
        wanted: The compute capabilities as the user typed them; empty: that of this machine's GPU.
        anywhere: TensorRT only: whether the plan runs on every GPU from Ampere on.

    Raises:
        UsageError: A compute capability has the wrong form, or the runtime does not build for it.
        EngineError: A GPU is needed, and this machine has none.
    """
    named = _parse(wanted)
    possible = api.capabilities()
    for capability in named:
        if api.builds_ahead and capability not in possible:
            raise UsageError(f"--for {capability}: {api.title} does not support it", f"Use {', '.join(possible)}.")
    if api.builds_ahead and named:
        return GpuTarget(named)
    gpu = find(index)
    if gpu is None:
        if api.builds_ahead:
            raise EngineError("this machine has no NVIDIA GPU, or no driver", f"Name one with --for: {', '.join(possible)}.")
        raise EngineError(
            f"{api.title} builds on the target GPU, and this machine has none, or no driver",
            "Build on the target machine, or use --runtime tensorrt-rtx.",
        )
    if named and named != (gpu.capability,):
        hint = "Omit --for, or use --runtime tensorrt-rtx."
        raise UsageError(f"--for {' '.join(named)}: {api.title} builds only for this machine's GPU ({gpu.capability})", hint)
    if not api.builds_ahead:
        if anywhere:
            return GpuTarget(("sm_80",), index=index)
        return GpuTarget((gpu.capability,), gpu.name, gpu.mig, index)
    if gpu.capability not in possible:
        message = f"{api.title} does not run on {gpu.name} ({gpu.capability})"
        raise EngineError(message, f"It runs on {', '.join(possible)}. Use --runtime tensorrt, or --engine onnxruntime.")
    return GpuTarget((gpu.capability,))


def use_gpu(index: int) -> None:
    """Make a GPU the device of the calling thread.

    Raises:
        EngineError: It does not exist.
    """
    from vision_infer.engine.gpu.cuda import cuda_device

    cuda_device(index)


def _parse(wanted: Sequence[str]) -> tuple[str, ...]:
    found = set()
    for text in wanted:
        if not re.fullmatch(r"sm_[0-9]{2,3}", text):
            raise UsageError(f"--for {text}: not a compute capability", "Write it as sm_89 (RTX 40, L4) or sm_120 (RTX 50).")
        found.add(text)
    return tuple(sorted(found, key=capability_number))
