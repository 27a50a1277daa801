"""Which engines a model could have on this machine: its graph and the variants beside it, in every runtime that is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from vision_infer.core.errors import ModelError
from vision_infer.engine.device import available_cpus, cpu_facts
from vision_infer.engine.graph_facts import GraphFacts, Precision, read_graph_facts
from vision_infer.engine.runtimes.openvino_engine import openvino_name
from vision_infer.engine.store.engine_key import EngineKey, cpu_engine_key
from vision_infer.engine.store.passport import DeviceFacts


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that a model could have here, on the processor."""

    graph: Path
    """the deployment graph"""
    facts: GraphFacts
    engine: str
    """runtime-device-precision"""
    compute: Literal["f32", "bf16"] = "f32"

    @property
    def runtime(self) -> str:
        """``onnxruntime`` or ``openvino``."""
        return self.engine.partition("-")[0]

    @property
    def lossless(self) -> bool:
        """Whether it computes in float32 what the network was trained in, and so may differ by rounding only."""
        return self.facts.precision == "fp32" and self.compute == "f32"

    def key(self, batch: int = 1) -> EngineKey:
        """What its compiled form and its passport are kept under; reads the graph from end to end."""
        return cpu_engine_key(self.graph, self.facts.card.name, self.engine, self.compute, batch)


def variants(path: Path) -> list[Path]:
    """Other precisions of a deployment graph: beside ``model.onnx`` they are called ``model.WHAT.onnx`` (``model.int8.onnx``).

    A file that is no deployment graph, or one of another model or input size, is none.
    """
    card = read_graph_facts(path).card
    found = []
    for other in sorted(path.parent.glob(f"{path.stem}.*.onnx")):
        try:
            its = read_graph_facts(other).card
        except ModelError:
            continue
        if (its.name, its.task, its.input) == (card.name, card.task, card.input):
            found.append(other)
    return found


def candidates(path: Path) -> list[Candidate]:
    """The engines of a model on this machine's processor; the first is the reference: the graph itself in float32.

    Raises:
        ModelError: the file is no deployment graph.
    """
    graphs = [path, *variants(path)]
    found: list[Candidate] = []
    for graph in graphs:
        facts = read_graph_facts(graph)
        if find_spec("onnxruntime") is not None:
            found.append(Candidate(graph, facts, f"onnxruntime-cpu-{facts.precision}"))
        if find_spec("openvino") is not None:
            found += [Candidate(graph, facts, openvino_name(facts.precision, one), one) for one in _computes(facts.precision)]
    return sorted(found, key=lambda one: not one.lossless)


def this_device() -> DeviceFacts:
    """This machine's processor, as passports tell of it."""
    name, instructions = cpu_facts()
    return DeviceFacts(name=name, instructions=instructions, cores=available_cpus())


def _computes(precision: Precision) -> Sequence[Literal["f32", "bf16"]]:
    """bfloat16 is worth asking for only where the processor has instructions for it: all else is slower."""
    capable = not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpu_facts()[1])
    return ("f32", "bf16") if capable and precision == "fp32" else ("f32",)
