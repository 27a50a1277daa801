"""What is told of the plans in the engine cache without loading them: what they are of and for, and why they do not run here."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.errors import EngineError, ModelError
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.store.cache import CacheEntry, EngineCache
from vision_infer.engine.store.engine_key import EngineKey, graph_sha256
from vision_infer.engine.store.passport import Passport, parse_passport
from vision_infer.engine.tensorrt.api import installed_versions
from vision_infer.engine.tensorrt.names import PLAN_RUNTIMES
from vision_infer.engine.tensorrt.plan_file import capability_number, runs_on
from vision_infer.engine.tensorrt.target import LocalGpu, find_gpu


@dataclass(frozen=True, slots=True)
class CachedPlan:
    """A plan of the cache, as it is told of."""

    entry: CacheEntry
    passport: Passport | None
    graph: str
    """name of the file that it was built of; empty where none of the model's graphs is the one"""
    not_here: str
    """why it does not run on this machine; empty if it does"""


def list_cached_plans(cache: EngineCache, path: Path) -> list[CachedPlan]:
    """The plans of a model, last used first.

    Args:
        cache: where they are kept.
        path: the model's deployment graph.
    """
    model = read_graph_facts(path).card.name
    entries = [one for one in cache.entries() if one.key.model == model and one.key.engine.startswith(PLAN_RUNTIMES)]
    if not entries:
        return []
    names = {graph_sha256(graph): graph.name for graph in _graphs(path, model)}
    versions, gpu = installed_versions(), find_gpu()
    found = []
    for one in entries:
        name = names.get(one.key.graph_sha256, "")
        why = why_not_here(one.key, versions.get(_runtime_of(one.key), ""), gpu) if name else "the graph has changed"
        found.append(CachedPlan(one, entry_passport(one, cache), name, why))
    return found


def _graphs(path: Path, model: str) -> list[Path]:
    """A model's graph, and those beside it: of other precisions (``model.fp16.onnx``) and inputs (``model-256x416.onnx``)."""
    found = [path]
    for other in sorted(path.parent.glob(f"{path.stem}[.-]*.onnx")):
        with suppress(ModelError):
            if read_graph_facts(other).card.name == model:
                found.append(other)
    return found


def _runtime_of(key: EngineKey) -> str:
    return key.engine.rsplit("-", 2)[0]


def entry_passport(entry: CacheEntry, cache: EngineCache) -> Passport | None:
    """The passport of an entry; None where there is none that can be read."""
    try:
        return parse_passport(cache.passport(entry.key) or "", str(entry.folder))
    except EngineError:
        return None


def why_not_here(key: EngineKey, version: str, gpu: LocalGpu | None) -> str:
    """Why a kept plan does not run on this machine, as far as its key tells; empty if it does.

    Args:
        key: of the plan.
        version: of the runtime that is here; empty: it is not.
        gpu: this machine's; None: there is none.
    """
    runtime = _runtime_of(key)
    if not version:
        return f"{runtime} is not installed"
    same_major = version.split(".")[0] == key.runtime_version.split(".")[0]
    if version != key.runtime_version and not (same_major and "version-compatible" in key.profile):
        return f"built by {runtime} {key.runtime_version}, here is {version}"
    if gpu is None:
        return "there is no NVIDIA GPU here"
    *name, capabilities = _split_device(key.device)
    if not runs_on(gpu.capability, capabilities, "hardware-compatible" in key.profile):
        return f"for {' '.join(capabilities)}, this GPU is {gpu.capability}"
    return f"for {name[0]}, this GPU is {gpu.name}" if name[0] not in ("", gpu.name) else ""


def _split_device(device: str) -> tuple[str, tuple[str, ...]]:
    words = device.split()
    capabilities = tuple(sorted((word for word in words if word.startswith("sm_")), key=capability_number))
    return " ".join(word for word in words if not word.startswith("sm_")), capabilities
