"""A stand-in for an NVIDIA GPU with TensorRT: plans are graphs that ONNX Runtime runs in the memory of a host device."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.engine.graphs import tiny_graph
from tests.engine.host_device import HostDevice, HostStream
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.selection import candidates
from vision_infer.engine.store.cache import EngineCache, OnMessage
from vision_infer.engine.store.engine_key import graph_sha256
from vision_infer.engine.tensorrt import api as apis
from vision_infer.engine.tensorrt import cached_plans, plan_engine, plans
from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.compile import CompiledPlan, PlanOptions
from vision_infer.engine.tensorrt.plan_file import PlanFile
from vision_infer.engine.tensorrt.plans import PlanJob, build_plan
from vision_infer.engine.tensorrt.target import GpuTarget, LocalGpu

pytest.importorskip("cuda.bindings.driver")

from vision_infer.engine.gpu import cuda

VERSION = "11.4.0"


class GraphModel:
    """A plan on the host device: its bytes are the graph."""

    def __init__(self, plan: PlanFile, api: Api, device: HostDevice, kernels: Path | None, on_message: OnMessage) -> None:
        self.outputs = plan.outputs
        self.device_bytes = len(plan.plan)
        self._device = device
        self._session = onnxruntime.InferenceSession(plan.plan, providers=["CPUExecutionProvider"])
        size = plan.card.input_size
        self._shape = (size.height, size.width, 3)

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: HostStream) -> None:
        """Compute when the stream reaches it."""

        def compute() -> None:
            at = self._device.at
            shape = (count, *self._shape)
            found = self._session.run(list(self.outputs), {"images": at(images, int(np.prod(shape))).reshape(shape)})
            for name, values in zip(self.outputs, found, strict=True):
                at(outputs[name], values.nbytes)[:] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)

        self._device.put(stream, compute)

    def recordable(self, count: int, images: int, outputs: Mapping[str, int], stream: HostStream) -> Callable[[], None]:
        """Return a function that queues the batch."""
        return lambda: self.enqueue(count, images, outputs, stream)

    def warmed_up(self) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Free the session."""
        del self._session


@dataclass
class StandInGpu:
    """The GPU, and what its TensorRT was used for."""

    gpu: LocalGpu = field(default_factory=lambda: LocalGpu("NVIDIA Stand-In", "sm_89"))
    count: int = 1
    """The number of GPUs."""
    api_error: EngineError | None = None
    """Raised when TensorRT is loaded."""
    build_error: EngineError | None = None
    """Raised by each build."""
    built: list[str] = field(default_factory=list)
    """The graphs that were compiled, in order."""
    workspaces: list[int | None] = field(default_factory=list)
    """The workspace of each build, bytes."""

    def find(self, index: int = 0) -> LocalGpu | None:
        """Return a GPU; all of them are alike."""
        return self.gpu if index < self.count else None

    def load_api(self, runtime: str) -> Api:
        """Return the API of TensorRT; TensorRT-RTX is not installed."""
        if runtime != "tensorrt":
            raise EngineError(f"{runtime} is not installed")
        if self.api_error is not None:
            raise self.api_error
        return Api("tensorrt", sys.modules["tensorrt"], VERSION, builds_ahead=False, has_timings=False)

    def compile(self, graph: Path, api: Api, target: GpuTarget, options: PlanOptions, **_: Any) -> CompiledPlan:
        """Return a plan with the bytes of the graph."""
        self.built.append(graph.name)
        self.workspaces.append(options.workspace_bytes)
        if self.build_error is not None:
            raise self.build_error
        facts = read_graph_facts(graph)
        outputs = {
            one.name: (
                tuple(side.dim_value for side in one.type.tensor_type.shape.dim[1:]),
                np.dtype(helper.tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type)),
            )
            for one in onnx.load(graph).graph.output
        }
        plan = PlanFile(
            graph.read_bytes(),
            facts.card,
            graph_sha256(graph),
            "tensorrt",
            api.version,
            target.capabilities,
            facts.precision,
            options.batch_sizes,
            outputs,
            hardware=target.gpu,
            tf32=options.tf32,
        )
        return CompiledPlan(plan, {}, b"", 30.0)

    def keep(self, graph: Path, folder: Path, gpu: LocalGpu | None = None) -> None:
        """Build a plan into a cache, as 'engine build' does; for another GPU if one is given."""
        on = gpu or self.gpu
        target = GpuTarget((on.capability,), on.name)
        job = PlanJob(graph, self.load_api("tensorrt"), target, PlanOptions())
        build_plan(job, EngineCache(folder), lambda _: None)
        self.built.clear()


@pytest.fixture
def stand_in_gpu(monkeypatch: pytest.MonkeyPatch) -> StandInGpu:
    """Install TensorRT and its GPU. ONNX Runtime stays on the CPU."""
    one = StandInGpu()
    module = ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt", module)

    def device(index: int) -> HostDevice:
        found = HostDevice()
        found.index, found.name = index, f"cuda:{index}"
        found.compute_capability, found.title = one.gpu.capability, one.gpu.name  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr(cuda, "CudaDevice", device)
    monkeypatch.setattr(cuda, "_devices", {})
    monkeypatch.setattr(plan_engine, "TensorRtModel", GraphModel)
    monkeypatch.setattr(plans, "compile_plan", one.compile)
    for user in (candidates, cached_plans, plans):
        monkeypatch.setattr(user, "find_gpu", one.find)
    for user in (apis, plans, plan_engine):
        monkeypatch.setattr(user, "load_api", one.load_api)
    return one


def half_graph(path: Path, card: ModelCard, factor: float = 1.0) -> Path:
    """Write the FP16 form of a tiny graph, whose scores are multiplied by a factor."""
    model = onnx.load(tiny_graph(path, card.model_copy(update={"precision": "fp16"})))
    (last,) = [node for node in model.graph.node if list(node.output) == ["scores"]]
    model.graph.initializer.append(helper.make_tensor("factor", TensorProto.FLOAT16, (), [factor]))
    at = list(model.graph.node).index(last)
    for number, node in enumerate(
        (
            helper.make_node("Cast", [last.input[0]], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Mul", ["half", "factor"], ["scaled"]),
        )
    ):
        model.graph.node.insert(at + number, node)
    last.input[0] = "scaled"
    onnx.save(model, path)
    return path
