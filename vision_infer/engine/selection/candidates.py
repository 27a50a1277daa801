"""The engines that a model can have on a device of this machine: its graph and the variants next to it, in every runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.device import available_cpus, cpu_facts, parse_device
from vision_infer.engine.graph_facts import GraphFacts, Precision, read_graph_facts, variants
from vision_infer.engine.registry import auto_runtimes, find_runtime
from vision_infer.engine.runtime import Compute, Runtime
from vision_infer.engine.store.cache import OnMessage
from vision_infer.engine.store.engine_key import EngineKey, graph_sha256
from vision_infer.engine.store.passport import ARITHMETIC, DeviceFacts
from vision_infer.engine.tensorrt.names import PLAN_RUNTIMES
from vision_infer.engine.tensorrt.target import choose_target, find_gpu

_ORDER = {"fp16": 0, "int8": 1, "fp32": 2}
"""The order in which plans are built and tried: those that are usually the fastest first."""


@dataclass(frozen=True, slots=True)
class EngineCandidate:
    """An engine that a model can have on a device of this machine."""

    graph: Path
    facts: GraphFacts
    engine: str
    """The engine's name: runtime-device-precision."""
    compute: Compute = "f32"
    """The type of the arithmetic of a float32 graph."""
    device: str = "cpu"
    """``cpu``, or ``cuda:N``."""

    @property
    def runtime(self) -> Runtime:
        """The runtime of the engine."""
        return find_runtime(self.engine)

    @property
    def lossless(self) -> bool:
        """Whether it computes in float32, in which the model was trained, so that only rounding can differ."""
        return self.facts.precision == "fp32" and self.compute == "f32"

    @property
    def is_plan(self) -> bool:
        """Whether it is a plan of TensorRT or TensorRT-RTX."""
        return self.engine.startswith(PLAN_RUNTIMES)

    def key(self, batch: int = 1) -> EngineKey:
        """Return the key of its compiled form and of its passport; reads the graph from end to end.

        On a GPU it only identifies the engine: the cache key of a plan contains its build options as well.
        """
        if self.device == "cpu":
            return self.runtime.cpu_key(self.graph, self.facts, self.compute, batch)
        sha256, version = graph_sha256(self.graph), self.runtime.version()
        return EngineKey(self.facts.card.name, sha256, self.engine, self.compute, version, this_device(self.device).name, 0)


def candidates(path: Path, device: str = "cpu") -> list[EngineCandidate]:
    """Return the engines of a model on a device; the first is the reference: the graph itself in float32.

    Args:
        device: ``cpu``, or ``cuda:N``. On a GPU the reference runs in ONNX Runtime, and the others are plans.

    Raises:
        ModelError: The file is not a deployment graph.
    """
    graphs = [(graph, read_graph_facts(graph)) for graph in (path, *variants(path))]
    if device != "cpu":
        first = find_runtime("onnxruntime").engine_name(graphs[0][1].precision, device="cuda")
        possible = [EngineCandidate(*graphs[0], first, device=device)]
        plans = plan_runtime(parse_device(device)[1])
        for graph, facts in sorted(graphs, key=lambda graph: _ORDER.get(graph[1].precision, 3)):
            if plans is not None and (facts.precision in ("fp16", "fp32") or "tensorrt" in graph.name):
                possible.append(EngineCandidate(graph, facts, plans.engine_name(facts.precision, device="cuda"), device=device))
        return possible
    found: list[EngineCandidate] = []
    for graph, facts in graphs:
        if graph != path and not _suits_cpu(graph, facts.precision):
            continue
        for runtime in auto_runtimes():
            computes = _computes(runtime, facts.precision)
            found += [EngineCandidate(graph, facts, runtime.engine_name(facts.precision, one), one) for one in computes]
    return sorted(found, key=lambda candidate: not candidate.lossless)


def plan_runtime(index: int, on_message: OnMessage = lambda _: None) -> Runtime | None:
    """Return the runtime whose plans ``auto`` takes on a GPU: TensorRT, else TensorRT-RTX; None if neither can be used.

    Args:
        on_message: Receives why an installed one cannot be used.
    """
    installed = [runtime for name in PLAN_RUNTIMES if (runtime := find_runtime(name)).is_installed()]
    gpu = find_gpu(index) if installed else None
    if gpu is None:
        return None
    from vision_infer.engine.tensorrt.api import load_api  # a machine without a GPU does not need it

    for runtime in installed:
        try:
            choose_target(load_api(runtime.name), (), index=index, find=lambda _: gpu)  # type: ignore[arg-type]
        except EngineError as error:
            on_message(f"{runtime.title} is not used: {error.message}")
            continue
        return runtime
    return None


def this_device(device: str = "cpu") -> DeviceFacts:
    """Return a device of this machine as passports describe it."""
    if device != "cpu":
        gpu = find_gpu(parse_device(device)[1])
        if gpu is None:
            return DeviceFacts(kind="cuda", name="")
        return DeviceFacts(kind="cuda", name=gpu.name, compute_capabilities=(gpu.capability,), mig=gpu.mig)
    name, instructions = cpu_facts()
    return DeviceFacts(name=name, instructions=instructions, cores=available_cpus())


def _suits_cpu(graph: Path, precision: Precision) -> bool:
    """Return whether a variant may be faster than FP32 on this CPU: without instructions for FP16 it is computed in float32."""
    return "tensorrt" not in graph.name and (precision != "fp16" or not ARITHMETIC["fp16"].isdisjoint(cpu_facts()[1]))


def _computes(runtime: Runtime, precision: Precision) -> Sequence[Compute]:
    """Return the useful types of arithmetic: bfloat16 is slower on a CPU without instructions for it."""
    if precision == "fp32" and not ARITHMETIC["bf16"].isdisjoint(cpu_facts()[1]):
        return runtime.computes
    return ("f32",)
