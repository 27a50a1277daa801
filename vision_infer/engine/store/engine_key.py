"""What a compiled engine and its passport belong to: nothing of it may differ."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

from vision_infer.engine.device import cpu_facts
from vision_infer.engine.external_data import external_files

PACKAGES = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}
"""the packages that a runtime may come from"""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """The content that an engine was made of, and what it was made with and for."""

    model: str
    """name on the card"""
    graph_sha256: str
    """of the deployment graph, as :func:`graph_sha256` gives it"""
    engine: str
    """runtime-device-precision"""
    compute: str
    """type of the arithmetic where the graph's is float32"""
    runtime_version: str
    device: str
    """the processor with its instruction set, or the GPU with its driver"""
    batch: int
    """largest batch that it was made for; 0: for any"""
    profile: str = ""
    """what else a plan was built with, in words; empty where there is nothing else"""

    def digest(self) -> str:
        """32 hexadecimal digits that stand for all of it."""
        content = asdict(self)
        if not self.profile:
            del content["profile"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def differences(self, other: EngineKey) -> tuple[str, ...]:
        """What is not the same in the two, in words."""
        told = {"graph_sha256": "what is kept is of another graph", "device": f"it was made for {other.device}"}
        names = [one.name for one in fields(self) if getattr(self, one.name) != getattr(other, one.name)]
        return tuple(
            told.get(name, f"{name.replace('_', ' ')} is {getattr(self, name)}, was {getattr(other, name)}") for name in names
        )


def cpu_engine_key(path: Path, model: str, engine: str, compute: str, batch: int) -> EngineKey:
    """The key of an engine on this machine's processor.

    Args:
        path: the deployment graph; it is read from end to end.
        model: name on its card.
        engine: runtime-device-precision.
        compute: ``f32`` or ``bf16``.
        batch: largest batch; it makes no difference to ONNX Runtime.
    """
    batch = 0 if engine.startswith("onnxruntime-") else batch
    name, instructions = cpu_facts()
    device = f"{name} ({' '.join(instructions)})"
    return EngineKey(model, graph_sha256(path), engine, compute, runtime_version(engine.partition("-")[0]), device, batch)


def graph_sha256(path: Path) -> str:
    """Checksum of a graph: of its file, and of those that hold weights of it. Each is read once by a process, unless it changed.

    Raises:
        ModelError: it wants data outside its folder.
    """
    own = _sha256(path.resolve(), _version(path))
    others = [other for other in _others(path.resolve(), _version(path)) if other.is_file()]
    if not others:
        return own
    told = {other.name: _sha256(other, _version(other)) for other in others}
    return hashlib.sha256(json.dumps([own, told]).encode()).hexdigest()


def _version(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=64)
def _others(path: Path, _: tuple[int, int, int]) -> tuple[Path, ...]:
    return external_files(path)


@lru_cache(maxsize=64)
def _sha256(path: Path, _: tuple[int, int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def runtime_version(runtime: str) -> str:
    """The installed version of a runtime; empty where there is none."""
    for package in PACKAGES.get(runtime, ()):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
