"""The names of the two runtimes that run plans; importing them loads neither."""

from __future__ import annotations

from typing import Literal

PlanRuntime = Literal["tensorrt", "tensorrt-rtx"]
PLAN_RUNTIMES: tuple[PlanRuntime, ...] = ("tensorrt", "tensorrt-rtx")
TITLES: dict[PlanRuntime, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
MODULES: dict[PlanRuntime, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
