"""The engines that a model can have on this machine: its graph and the variants next to it, in every installed runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vision_infer.engine.device import available_cpus, cpu_facts
from vision_infer.engine.graph_facts import GraphFacts, Precision, read_graph_facts, variants
from vision_infer.engine.registry import auto_runtimes, find_runtime
from vision_infer.engine.runtime import Compute, Runtime
from vision_infer.engine.store.engine_key import EngineKey
from vision_infer.engine.store.passport import DeviceFacts


@dataclass(frozen=True, slots=True)
class EngineCandidate:
    """An engine that a model can have on this machine's CPU."""

    graph: Path
    facts: GraphFacts
    engine: str
    """The engine's name: runtime-device-precision."""
    compute: Compute = "f32"
    """The type of the arithmetic of a float32 graph."""

    @property
    def runtime(self) -> Runtime:
        """The runtime of the engine."""
        return find_runtime(self.engine)

    @property
    def lossless(self) -> bool:
        """Whether it computes in float32, in which the model was trained, so that only rounding can differ."""
        return self.facts.precision == "fp32" and self.compute == "f32"

    def key(self, batch: int = 1) -> EngineKey:
        """Return the key of its compiled form and of its passport; reads the graph from end to end."""
        return self.runtime.cpu_key(self.graph, self.facts, self.compute, batch)


def candidates(path: Path) -> list[EngineCandidate]:
    """Return the engines of a model on this machine's CPU; the first is the reference: the graph itself in float32.

    Raises:
        ModelError: The file is not a deployment graph.
    """
    found: list[EngineCandidate] = []
    for graph in (path, *variants(path)):
        facts = read_graph_facts(graph)
        for runtime in auto_runtimes():
            computes = _computes(runtime, facts.precision)
            found += [EngineCandidate(graph, facts, runtime.engine_name(facts.precision, one), one) for one in computes]
    return sorted(found, key=lambda candidate: not candidate.lossless)


def this_device() -> DeviceFacts:
    """Return this machine's CPU as passports describe it."""
    name, instructions = cpu_facts()
    return DeviceFacts(name=name, instructions=instructions, cores=available_cpus())


def _computes(runtime: Runtime, precision: Precision) -> Sequence[Compute]:
    """Return the useful types of arithmetic: bfloat16 is slower on a CPU without instructions for it."""
    if precision == "fp32" and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpu_facts()[1]):
        return runtime.computes
    return ("f32",)
