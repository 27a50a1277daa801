"""Engines of TensorRT: errors of the runtime, and plans that it must not get."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine.synthetic_tensorrt import (
    NumberedDevice,
    Runtime,
    Severity,
    api,
    device,
    plan,
    runtime,
)
from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.tensorrt import plan_engine
from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.plan_engine import TensorRtModel
from vision_infer.engine.tensorrt.plan_file import PlanFile

__all__ = ["api", "device", "plan", "runtime"]


def test_an_error_contains_the_message_of_the_runtime(plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime) -> None:
    runtime.loads = False
    with pytest.raises(EngineError, match="does not load the plan: the magic tag does not match") as caught:
        TensorRtModel(plan, api, device)
    assert "engine build" in caught.value.hint


@pytest.mark.parametrize(
    ("severity", "why"),
    [
        (1, "[executionContext.cpp::allocate::12] Error Code 2: OutOfMemory (Requested size was 1000000 bytes.)"),
        (1, "Error Code 2: OutOfMemory (no further information)"),
        (1, "CUDA error: out of memory"),
        (2, "Requested amount of GPU memory (9 bytes) could not be allocated. There may not be enough free memory."),
    ],
)
def test_a_lack_of_memory_is_recognized(
    plan: PlanFile,
    api: Api,
    device: NumberedDevice,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    severity: int,
    why: str,
) -> None:
    def without_memory(_: bytes) -> Runtime | None:
        runtime.logger.log(severity, why)
        runtime.logger.log(Severity.ERROR, "Assertion engine != nullptr failed.")
        return None

    monkeypatch.setattr(runtime, "deserialize_cuda_engine", without_memory)
    with pytest.raises(DeviceMemoryError) as caught:
        TensorRtModel(plan, api, device)
    assert why[:30] in caught.value.message


@pytest.mark.parametrize(("weights", "scratch", "needs"), [(2 * 10**9, 1000, 2000), (4, 2 * 10**9, 2000)])
def test_memory_is_checked_before_it_is_used(
    plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime, weights: int, scratch: int, needs: int
) -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return weights

    runtime.device_memory_size_v2 = scratch
    with pytest.raises(DeviceMemoryError, match=f"about {needs} MB are needed for .*, but .* has 1000 of 1000 MB free"):
        TensorRtModel(replace(plan, plan=Long()), api, device)
    assert device.used == 0


def test_a_runtime_that_does_not_start(plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime) -> None:
    def null(logger: Any) -> None:
        logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    api.module.Runtime = null
    with pytest.raises(
        EngineError, match=r"TensorRT 11\.0 cannot be started: CUDA initialization failure with error: 35"
    ) as caught:
        TensorRtModel(plan, api, device)
    assert "Update NVIDIA's driver" in caught.value.hint


@pytest.mark.parametrize(
    ("version", "capability", "gpu", "why"),
    [
        ("11.1", "sm_89", "NVIDIA L4", "it was built by tensorrt 11.0, installed is 11.1"),
        ("11.0", "sm_90", "NVIDIA H100", "it was built for sm_89, this GPU is sm_90"),
        ("11.0", "sm_89", "NVIDIA L40", "it was built on NVIDIA L4, this GPU is NVIDIA L40"),
    ],
)
def test_a_plan_of_another_version_or_gpu_never_reaches_the_runtime(
    plan: PlanFile, api: Api, monkeypatch: pytest.MonkeyPatch, version: str, capability: str, gpu: str, why: str
) -> None:
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not here")
    from vision_infer.engine.gpu import cuda

    monkeypatch.setattr(cuda, "cuda_device", lambda _: SimpleNamespace(compute_capability=capability, title=gpu))
    monkeypatch.setattr(plan_engine, "load_api", lambda _: replace(api, version=version))
    with pytest.raises(EngineError) as caught:
        plan_engine.open_plan_engine(replace(plan, hardware="NVIDIA L4"), 0, 8, 2, lambda _: None)
    expected = f"the plan cannot be loaded: {why}. Build it again on this machine: vision-infer engine build"
    assert str(caught.value) == expected
