"""The descriptor of a runtime: all that the rest of the package knows about it.

To add a runtime, write a module in ``engine/runtimes/`` that provides a descriptor, and list it in ``engine/registry.py``.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from vision_infer.core.errors import EngineError
from vision_infer.engine.device import cpu_facts
from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import GraphFacts, Precision
from vision_infer.engine.store.cache import EngineCache, OnMessage
from vision_infer.engine.store.engine_key import EngineKey, graph_sha256

Compute = Literal["f32", "bf16"]
"""The type of the arithmetic of a float32 graph."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How a runtime opens an engine; nothing is left to choose."""

    device: str = "cpu"
    """The kind of device: ``cpu`` or ``cuda``."""
    device_index: int = 0
    """The number of the GPU, as CUDA counts them."""
    workers: int = 1
    """The number of batches in flight."""
    threads: int = 1
    """The number of threads for each batch, on the CPU."""
    batch: int = 1
    """The largest batch size."""
    compute: Compute = "f32"
    """The type of the arithmetic of a float32 graph."""
    precision: str = ""
    """The precision in the engine's full name; empty if the request names none."""
    may_build: bool = True
    """Whether a plan that is not cached is built, which takes minutes."""


def package_version(package: str) -> str:
    """Return the installed version of a Python package; empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


OpenEngine = Callable[[Path, EngineSettings, EngineCache | None, OnMessage], Engine]
"""Opens a deployment graph; the cache is None where engines of that device are not cached, or the cache cannot be used."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime that can run deployment graphs."""

    name: str
    """The first part of its engines' names, and what ``--engine`` takes."""
    title: str
    """The name as its makers write it."""
    open: OpenEngine
    """Opens an engine. It imports the runtime itself, so that a descriptor costs nothing."""
    modules: tuple[str, ...] = ()
    """The Python modules that have to be installed."""
    packages: tuple[str, ...] = ()
    """The packages that the modules may come from."""
    extra: str = ""
    """The extra of vision-infer that installs it."""
    benefit: str = ""
    """What installing it adds, for ``doctor``; empty if ``doctor`` does not suggest it."""
    devices: tuple[str, ...] = ("cpu",)
    """The kinds of devices that it runs on, the default first."""
    choose_device: Callable[[], str] | None = None
    """Chooses the kind of device where the request leaves it open; None: always the first of :attr:`devices`."""
    computes: tuple[Compute, ...] = ("f32",)
    """The types of arithmetic that it has for a float32 graph."""
    cached_on: tuple[str, ...] = ()
    """The kinds of devices for which it compiles engines that the cache keeps."""
    key_has_batch: bool = True
    """Whether a compiled engine fits one largest batch size only."""
    in_auto: bool = False
    """Whether ``auto`` considers it on the CPU."""
    slow_start: bool = False
    """Whether compiling is slow, and a run therefore starts with another engine."""
    smoke_tested: bool = True
    """Whether ``doctor`` runs its smoke test."""

    def is_installed(self) -> bool:
        """Return whether its modules can be found; they are not imported."""
        return all(find_spec(module) is not None for module in self.modules)

    def missing(self) -> EngineError:
        """Return the error for an installation without this runtime."""
        return EngineError(f"{self.title} is not installed", f"Run: pip install '.[{self.extra}]', or use another engine")

    def version(self) -> str:
        """Return the installed version; empty if it is not installed."""
        return next(filter(None, map(package_version, self.packages)), "")

    def engine_name(self, precision: Precision, compute: Compute = "f32", device: str = "cpu") -> str:
        """Return runtime-device-precision; a float32 graph that is computed in another type has the name of that type."""
        return f"{self.name}-{device}-{compute if precision == 'fp32' and compute != 'f32' else precision}"

    def cpu_key(self, graph: Path, facts: GraphFacts, compute: Compute, batch: int) -> EngineKey:
        """Return the key of an engine on this machine's CPU; reads the graph from end to end."""
        name, instructions = cpu_facts()
        return EngineKey(
            facts.card.name,
            graph_sha256(graph),
            self.engine_name(facts.precision, compute),
            compute,
            self.version(),
            f"{name} ({' '.join(instructions)})",
            batch if self.key_has_batch else 0,
        )
