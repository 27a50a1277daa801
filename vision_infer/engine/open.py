"""Chooses and opens the engine for a deployment graph."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.device import available_cpus, load_onnxruntime, missing_runtime, parse_device
from vision_infer.engine.engine import Engine

RUNTIMES = ("onnxruntime", "null")


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Which engine is wanted; None leaves the choice to the machine."""

    engine: str = "auto"
    """``auto``, a runtime (``onnxruntime``, ``null``) or a full name such as ``onnxruntime-cpu-fp32``"""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda:N``"""
    workers: int | None = None
    """batches in flight; default: as many as the CPUs allow with ``threads``, 2 on a GPU"""
    threads: int | None = None
    """threads of each batch on the CPU; default 1"""
    batch: int | None = None
    """largest batch; default 1 on the CPU, where larger ones do not pay, 8 on a GPU"""


def open_engine(path: Path, request: EngineRequest) -> Engine:
    """Load a deployment graph; the engine is a context manager.

    Raises:
        EngineError: the runtime is unknown or missing, or the device is not there.
        ModelError: the file is no deployment graph.
        UsageError: the device is not well named.
    """
    from vision_infer.engine.onnxruntime_engine import CUDA_IN_FLIGHT, OnnxRuntimeEngine, OnnxRuntimeSettings

    runtime, named_device = _parse_name(request.engine)
    if find_spec("onnxruntime") is None:
        raise missing_runtime()
    kind, index = _choose_device(named_device or request.device)
    threads = request.threads or 1
    if kind == "cuda":
        workers, batch = request.workers or CUDA_IN_FLIGHT, request.batch or 8
    else:
        workers, batch = request.workers or max(1, available_cpus() // threads), request.batch or 1
    if runtime == "null":
        return _null_engine(path, workers, batch)
    engine = OnnxRuntimeEngine(path, OnnxRuntimeSettings(kind, index, workers, threads, batch))
    if request.engine.count("-") == 2 and request.engine != engine.name:
        raise EngineError(
            f"the model gives the engine {engine.name}, not {request.engine}", f"use --engine {engine.name} or auto"
        )
    return engine


def _parse_name(name: str) -> tuple[str, str | None]:
    if name == "auto":
        return "onnxruntime", None
    parts = name.split("-")
    if parts[0] in RUNTIMES and len(parts) in (1, 3):
        return parts[0], parts[1] if len(parts) == 3 and parts[0] != "null" else None
    near = difflib.get_close_matches(name, (*RUNTIMES, "onnxruntime-cpu-fp32", "onnxruntime-cuda-fp32"), 3, 0.4)
    raise EngineError(f"unknown engine {name!r}", f"use auto, {' or '.join(near or RUNTIMES)}")


def _choose_device(device: str) -> tuple[str, int]:
    if device != "auto":
        return parse_device(device)
    return ("cuda", 0) if "CUDAExecutionProvider" in load_onnxruntime().get_available_providers() else ("cpu", 0)


def _null_engine(path: Path, workers: int, batch: int) -> Engine:
    # The card is inside the deployment graph; the runtime that reads it is not used for anything else.
    from vision_infer.engine.null import NullEngine
    from vision_infer.engine.onnxruntime_engine import OnnxRuntimeEngine, OnnxRuntimeSettings

    with OnnxRuntimeEngine(path, OnnxRuntimeSettings()) as real:
        card = real.card
    return NullEngine(card, batch_sizes=tuple(range(1, batch + 1)), in_flight=workers)
