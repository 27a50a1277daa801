"""Engines of TensorRT-RTX: what it compiles is kept for the next start."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.synthetic_tensorrt import (
    CapturableContext,
    Config,
    NumberedDevice,
    Runtime,
    api,
    device,
    plan,
    runtime,
)
from vision_infer.engine.gpu.device_engine import DeviceEngine
from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.kernels import kernels_file
from vision_infer.engine.tensorrt.plan_engine import TensorRtModel
from vision_infer.engine.tensorrt.plan_file import PlanFile

__all__ = ["api", "device", "plan", "runtime"]


class Blob:
    """The runtime cache of the synthetic TensorRT-RTX, which knows its own content only."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, content: bytes) -> bool:
        known = content.startswith(b"kernels")
        self.content = content if known else b""
        return known

    def serialize(self) -> bytes:
        return self.content


class RtxConfig(Config):
    """The runtime configuration of the synthetic TensorRT-RTX: a kernel is compiled for each new batch size."""

    dynamic_shapes_kernel_specialization_strategy = "lazy"

    def create_runtime_cache(self) -> Blob:
        return Blob()

    def set_runtime_cache(self, cache: Blob) -> bool:
        self.cache = cache
        return True


class RtxContext(CapturableContext):
    """It compiles at its first run in a shape, unless the cache has the kernel."""

    compiled = 0

    def execute_async_v3(self, stream: int) -> bool:
        config = self._runtime.config
        assert isinstance(config, RtxConfig)
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
        name = f" {self._count}".encode()
        if name not in config.cache.content:
            assert self._runtime.device._recording is None
            config.cache.content = (config.cache.content or b"kernels") + name
            RtxContext.compiled += 1
        return super().execute_async_v3(stream)


class Kernels:
    EAGER = "eager"


@pytest.mark.slow  # 9 s
def test_a_second_start_of_tensorrt_rtx_compiles_nothing(
    plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime, tmp_path: Path
) -> None:
    api.module.DynamicShapesKernelSpecializationStrategy = Kernels
    runtime.context = RtxContext
    file = kernels_file(replace(plan, file=tmp_path / "engine.bin"), "NVIDIA L4")
    assert file is not None
    said: list[str] = []

    def starts() -> int:
        runtime.config = RtxConfig()
        before = RtxContext.compiled
        model = TensorRtModel(plan, api, device, file, said.append)
        with DeviceEngine(plan.engine, plan.card, model, device, (1, 2, 8), 1, said.append) as engine:
            engine.warm_up()
        return RtxContext.compiled - before

    assert [starts(), starts(), said] == [3, 0, []]
    content = file.read_bytes()
    for wrong in (content[:-1], hashlib.sha256(b"of another driver").digest() + b"of another driver", b""):
        file.write_bytes(wrong)
        assert [starts(), starts()] == [3, 0]
        assert "they are compiled again" in said.pop()
        assert said == []
    file = tmp_path / "removed meanwhile" / file.name
    assert starts() == 3
    assert "cannot be stored: No such file or directory" in said.pop()
    assert kernels_file(plan, "NVIDIA L4") is None
