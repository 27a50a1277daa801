"""Lists the plans in the engine cache without loading them, with the reason for which one does not run on this machine."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.errors import ModelError
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.store.cache import CacheEntry, EngineCache
from vision_infer.engine.store.engine_key import EngineKey, graph_sha256
from vision_infer.engine.store.passport import Passport
from vision_infer.engine.tensorrt.api import installed_versions
from vision_infer.engine.tensorrt.compile import is_built_alike
from vision_infer.engine.tensorrt.names import PLAN_RUNTIMES, capability_number
from vision_infer.engine.tensorrt.plan_file import runs_on
from vision_infer.engine.tensorrt.target import LocalGpu, find_gpu


@dataclass(frozen=True, slots=True)
class CachedPlan:
    """A plan in the cache."""

    entry: CacheEntry
    passport: Passport | None
    """Its passport; None if it cannot be read."""
    graph: str
    """The name of the graph that it was built from; empty if that is none of the model's graphs."""
    not_here: str
    """Why it does not run on this machine; empty if it does."""


def list_cached_plans(cache: EngineCache, path: Path, index: int = 0) -> list[CachedPlan]:
    """Return the plans of a model, the most recently used first; :attr:`CachedPlan.not_here` is about the GPU ``index``."""
    model = read_graph_facts(path).card.name
    entries = [entry for entry in cache.entries() if entry.key.model == model and entry.key.engine.startswith(PLAN_RUNTIMES)]
    if not entries:
        return []
    names = {graph_sha256(graph): graph.name for graph in _graphs(path, model)}
    versions, gpu = installed_versions(), find_gpu(index)
    found = []
    for entry in entries:
        name = names.get(entry.key.graph_sha256, "")
        why = why_not_here(entry.key, versions.get(_runtime_of(entry.key), ""), gpu) if name else "the graph has changed"
        found.append(CachedPlan(entry, cache.passport(entry.key), name, why))
    return found


def _graphs(path: Path, model: str) -> list[Path]:
    """Return a model's graph and its variants: in other precisions (``model.fp16.onnx``) or sizes (``model-256x416.onnx``)."""
    found = [path]
    for other in sorted(path.parent.glob(f"{path.stem}[.-]*.onnx")):
        with suppress(ModelError):
            if read_graph_facts(other).card.name == model:
                found.append(other)
    return found


def _runtime_of(key: EngineKey) -> str:
    return key.engine.rsplit("-", 2)[0]


def why_not_here(key: EngineKey, version: str, gpu: LocalGpu | None) -> str:
    """Return why a cached plan does not run on this machine, as far as its key shows; empty if it does.

    Args:
        version: The installed version of the runtime; empty: it is not installed.
        gpu: The machine's GPU; None: there is none.
    """
    runtime = _runtime_of(key)
    if not version:
        return f"{runtime} is not installed"
    same_major = version.split(".")[0] == key.runtime_version.split(".")[0]
    if version != key.runtime_version and not (same_major and "version-compatible" in key.profile):
        return f"built by {runtime} {key.runtime_version}, installed is {version}"
    if not is_built_alike(key.profile):
        return "built by another version of vision-infer, in another way"
    if gpu is None:
        return "this machine has no NVIDIA GPU"
    *name, capabilities = _split_device(key.device)
    if not runs_on(gpu.capability, capabilities, "hardware-compatible" in key.profile):
        return f"for {' '.join(capabilities)}, this GPU is {gpu.capability}"
    return f"for {name[0]}, this GPU is {gpu.name}" if name[0] not in ("", gpu.name) else ""


def _split_device(device: str) -> tuple[str, tuple[str, ...]]:
    words = device.split()
    capabilities = tuple(sorted((word for word in words if word.startswith("sm_")), key=capability_number))
    return " ".join(word for word in words if not word.startswith("sm_")), capabilities
