"""A runtime in one module, as a contributor would add it."""

from __future__ import annotations

from pathlib import Path

from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.runtime import EngineSettings, Runtime
from vision_infer.engine.runtimes.null import NullEngine
from vision_infer.engine.store.cache import EngineCache, OnMessage


def _open(path: Path, settings: EngineSettings, cache: EngineCache | None, on_message: OnMessage) -> Engine:
    facts = read_graph_facts(path)
    engine = NullEngine(facts.card, in_flight=settings.workers)
    engine.name = RUNTIME.engine_name(facts.precision, settings.compute)
    return engine


RUNTIME = Runtime("toy", "Toy", _open, modules=("json",), computes=("f32", "bf16"), cached_on=("cpu",), in_auto=True)
