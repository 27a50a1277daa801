"""The runtimes of this package, in the order in which ``auto`` and error messages name them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from vision_infer.core.errors import EngineError
from vision_infer.engine.runtime import Runtime
from vision_infer.engine.runtimes import null, onnxruntime, openvino, pytorch, tensorrt

RUNTIMES: tuple[Runtime, ...] = (
    onnxruntime.RUNTIME,
    openvino.RUNTIME,
    *tensorrt.RUNTIMES,
    *pytorch.RUNTIMES,
    null.RUNTIME,
)


def _usable() -> list[Runtime]:
    return [runtime for runtime in RUNTIMES if runtime != null.RUNTIME]


def _full_names(runtimes: Iterable[Runtime]) -> list[str]:
    return [
        runtime.engine_name("fp32", compute, device)
        for runtime in runtimes
        for device in runtime.devices
        for compute in runtime.computes
    ]


def engine_names() -> list[str]:
    """Return the names of the engines of the installed runtimes, for models in FP32 and in INT8."""
    names = _full_names(runtime for runtime in _usable() if runtime.is_installed())
    return list(dict.fromkeys(found for name in names for found in (name, f"{name.rpartition('-')[0]}-int8")))


def auto_runtimes() -> tuple[Runtime, ...]:
    """Return the installed runtimes that ``auto`` considers on the CPU."""
    return tuple(runtime for runtime in RUNTIMES if runtime.in_auto and runtime.is_installed())


def buildable_runtimes() -> tuple[Runtime, ...]:
    """Return the runtimes whose engines ``engine build`` compiles, installed or not."""
    return tuple(runtime for runtime in RUNTIMES if runtime.cached_on)


def parse_engine_name(name: str) -> tuple[Runtime, str | None, str]:
    """Split the name of an engine: ``onnxruntime`` or ``onnxruntime-cpu-fp32``.

    Returns:
        The runtime; the kind of device, None if the name has none; and the precision, empty if the name has none.

    Raises:
        EngineError: The name is unknown; the hint lists similar ones.
    """
    for runtime in sorted(RUNTIMES, key=lambda runtime: -len(runtime.name)):
        parts = name.removeprefix(runtime.name).split("-")
        if name == runtime.name:
            return runtime, None, ""
        if name.startswith(runtime.name) and parts[0] == "" and len(parts) == 3 and parts[1] in ("cpu", "cuda"):
            return runtime, parts[1], parts[2]
    names = [runtime.name for runtime in _usable()]
    *first, last = difflib.get_close_matches(name, [*names, *_full_names(_usable())], 3, 0.4) or names
    raise EngineError(f"unknown engine {name!r}", f"Use {', '.join(['auto', *first])}, or {last}.")


def find_runtime(name: str) -> Runtime:
    """Return the runtime of a name, or of an engine's full name.

    Raises:
        EngineError: The name is unknown.
    """
    return parse_engine_name(name)[0]


def runtime_version(name: str) -> str:
    """Return the installed version of a runtime; empty if it is not installed."""
    return find_runtime(name).version()


def no_runtime() -> EngineError:
    """Return the error for an installation without any runtime that ``auto`` considers."""
    return EngineError("no inference engine is installed", "Run: pip install '.[cpu]' (or [gpu] with an NVIDIA GPU)")
