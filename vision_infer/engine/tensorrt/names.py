"""The names of the two runtimes that run plans, and of compute capabilities; importing them loads neither runtime."""

from __future__ import annotations

from typing import Literal

PlanRuntime = Literal["tensorrt", "tensorrt-rtx"]
PLAN_RUNTIMES: tuple[PlanRuntime, ...] = ("tensorrt", "tensorrt-rtx")
TITLES: dict[PlanRuntime, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
MODULES: dict[PlanRuntime, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def capability_number(capability: str) -> int:
    """Return the number of a compute capability: 89 for ``sm_89``."""
    return int(capability.removeprefix("sm_"))
