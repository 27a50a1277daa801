"""The key of a compiled engine and its passport: they are used only where all of it is equal."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

from vision_infer.engine.external_data import external_files
from vision_infer.engine.graph_facts import file_version


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine was built from, with what, and for which device."""

    model: str
    """The name on the model's card."""
    graph_sha256: str
    """The checksum of the deployment graph, see :func:`graph_sha256`."""
    engine: str
    """The name of the engine: runtime-device-precision."""
    compute: str
    """The type of the arithmetic of a float32 graph."""
    runtime_version: str
    device: str
    """The CPU with its instruction set, or the GPUs of a plan."""
    batch: int
    """The largest batch size that it was built for; 0: any."""
    profile: str = ""
    """The other options of a plan, in words; empty for other engines."""

    def digest(self) -> str:
        """Return 32 hexadecimal digits of a hash of all fields."""
        content = asdict(self)
        if not self.profile:
            del content["profile"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def differences(self, other: EngineKey) -> tuple[str, ...]:
        """Return the differences to the key of a cached engine, in words."""
        texts = {"graph_sha256": "not cached yet for this graph", "device": f"it was built for {other.device}"}
        names = [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]
        return tuple(
            texts.get(name, f"{name.replace('_', ' ')} is {getattr(self, name)}, was {getattr(other, name)}") for name in names
        )


def graph_sha256(path: Path) -> str:
    """Return the checksum of a graph's file and of its files with weights; each file is read again only if it changed.

    Raises:
        ModelError: The graph refers to data outside its folder.
    """
    own = _sha256(path.resolve(), file_version(path))
    others = [other for other in _others(path.resolve(), file_version(path)) if other.is_file()]
    if not others:
        return own
    checksums = {other.name: _sha256(other, file_version(other)) for other in others}
    return hashlib.sha256(json.dumps([own, checksums]).encode()).hexdigest()


@lru_cache(maxsize=64)
def _others(path: Path, _: tuple[int, int, int]) -> tuple[Path, ...]:
    return external_files(path)


@lru_cache(maxsize=64)
def _sha256(path: Path, _: tuple[int, int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
