"""Engines of TensorRT: their calls of a synthetic runtime in host memory, and on a real GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.graphs import tiny_graph
from tests.engine.synthetic_tensorrt import (
    CapturableContext,
    NumberedDevice,
    Runtime,
    api,
    device,
    plan,
    runtime,
)
from tests.support.gpu import needs_cuda
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu.device_engine import DeviceEngine
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.plan_engine import TensorRtModel, sizes_of
from vision_infer.engine.tensorrt.plan_file import PlanFile

__all__ = ["api", "device", "plan", "runtime"]


def test_a_plan_runs_through_the_runtime(plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime) -> None:
    model = TensorRtModel(plan, api, device)
    with DeviceEngine(plan.engine, plan.card, model, device, sizes_of(plan, 8)) as engine:
        assert (engine.name, engine.batch_sizes) == ("tensorrt-cuda-fp16", (1, 2, 4, 8))
        engine.warm_up()
        for values in ([10], [20, 30, 40], [5] * 8):
            loan = engine.lend(len(values))
            for slot, value in zip(loan.slots, values, strict=True):
                slot.pixels[:] = value
            scores = engine.collect(engine.submit(loan)).outputs["scores"][:, 0]
            assert scores * 255 == pytest.approx(values, abs=1e-3)
    runtime.largest = 2
    model = TensorRtModel(plan, api, device)
    with DeviceEngine(plan.engine, plan.card, model, device, (1, 2), graphs=False) as engine:
        runtime.largest = 1
        with pytest.raises(EngineError, match="TensorRT does not accept a batch of 2"):
            engine.submit(engine.lend(2))
    assert (device.used, device.things) == (0, 0)
    with pytest.raises(EngineError, match="closed"):
        model.enqueue(1, 0, {}, 0)


def test_each_recorded_batch_has_a_context_and_all_share_their_memory(
    plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime
) -> None:
    said: list[str] = []
    model = TensorRtModel(plan, api, device)
    with DeviceEngine(plan.engine, plan.card, model, device, sizes_of(plan, 8), 2, said.append) as engine:
        assert len(runtime.contexts) == 1
        engine.warm_up()
        assert len(runtime.contexts) == 1 + 2 * 4
        assert len({context.memory for context in runtime.contexts}) == 1
        launched = device.launched
        for size in (8, 1, 4, 1, 2):
            engine.collect(engine.submit(engine.lend(size)))
        assert (device.launched - launched, len(runtime.contexts), said) == (5, 9, [])
    assert (device.used, device.things) == (0, 0)


def test_a_plan_that_cannot_be_recorded_runs_without_graphs(
    plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime
) -> None:
    runtime.context, runtime.capturable = CapturableContext, False
    said: list[str] = []
    model = TensorRtModel(plan, api, device)
    with DeviceEngine(plan.engine, plan.card, model, device, (1, 2), 1, said.append) as engine:
        engine.warm_up()
        engine.collect(engine.submit(engine.lend(1)))
        assert device.launched == 0
    assert said == [f"{plan.engine}: batches of 1 and more run without CUDA graphs: the model cannot be recorded"]


def test_a_single_image_runs_in_its_own_profile(plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime) -> None:
    runtime.profiles = ((1, 1), (2, 8))
    model = TensorRtModel(plan, api, device)
    with DeviceEngine(plan.engine, plan.card, model, device, (1, 2, 8), 1) as engine:
        engine.warm_up()
        assert [context.active_optimization_profile for context in runtime.contexts] == [1, 0, 1, 1]
        with pytest.raises(EngineError, match="has no optimization profile for a batch of 9"):
            model.recordable(9, 0, dict.fromkeys(model.outputs, 0), 0)


def test_code_for_the_host_is_allowed_for_version_compatible_plans_only(
    plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime
) -> None:
    found = []
    for compatible in (False, True):
        TensorRtModel(replace(plan, version_compatible=compatible), api, device).close()
        found.append((runtime.engine_host_code_allowed, runtime.tempfile_control_flags))
    assert found == [(False, 3), (True, 1)]  # in memory only: /tmp may be small, or without execute permission


def test_batch_sizes_follow_from_the_plan(plan: PlanFile) -> None:
    assert [sizes_of(plan, largest) for largest in (1, 3, 8, 100)] == [(1,), (1, 2, 3), (1, 2, 4, 8), (1, 2, 4, 8)]
    object.__setattr__(plan, "batch_sizes", (4, 6))
    assert sizes_of(plan, 6) == (4, 6)
    with pytest.raises(EngineError, match="--batch 4"):
        sizes_of(plan, 2)


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt-rtx", "tensorrt-rtx-cuda-fp32", "tensorrt-cuda-fp32"])
def test_tensorrt_runs_on_a_gpu_only(engine: str, tmp_path: Path, card: ModelCard) -> None:
    path = tiny_graph(tmp_path / "x.onnx", card)
    for where in ("cpu", "cuda:99"):
        with pytest.raises(EngineError if where != "cpu" or engine.count("-") < 2 else Exception) as caught:
            open_engine(path, EngineRequest(engine, device=where))
        assert "\n" not in str(caught.value)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_on_a_gpu(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    pytest.importorskip(runtime.replace("-", "_"), reason=f"needs an NVIDIA GPU and {runtime}")
    said: list[str] = []
    path, request = tiny_graph(tmp_path / "x.onnx", card), EngineRequest(runtime, batch=4, engine_dir=tmp_path / "engines")
    for start in ("first", "second"):
        try:
            engine = open_engine(path, request, said.append)
        except EngineError as error:
            if "does not run on" in error.message:
                pytest.skip(f"needs an NVIDIA GPU for {runtime}: {error.message}")
            raise
        with engine:
            check_on_a_gpu(engine)
        assert not [line for line in said if "CUDA graphs" in line]
        assert start == "first" or not said  # the plan and its kernels are found again
        said.clear()
    assert len(list(tmp_path.glob("engines/*/kernels-*.bin"))) == (runtime == "tensorrt-rtx")


def check_on_a_gpu(engine: Any) -> None:
    """Run batches that are not recorded, and then recorded ones."""
    for recorded in (False, True):
        if recorded:
            engine.warm_up()
        for _ in range(3):
            loan = engine.lend(3)
            for value, slot in enumerate(loan.slots):
                slot.pixels[:] = 50 * value
            scores = engine.collect(engine.submit(loan)).outputs["scores"][:, 0]
            assert np.allclose(scores * 255, [0, 50, 100], atol=0.01)
