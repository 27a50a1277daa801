"""Opens the runtimes for deployment graphs in the same way, for tests that apply to each."""

from __future__ import annotations

from pathlib import Path

import pytest

from vision_infer.engine.engine import Engine
from vision_infer.engine.runtime import EngineSettings
from vision_infer.engine.runtimes.onnxruntime import OnnxRuntimeEngine
from vision_infer.engine.runtimes.openvino import OpenVinoEngine

RUNTIMES = ("onnxruntime", "openvino")


def open_with(runtime: str, path: Path, workers: int = 1, threads: int = 1, batch: int = 1) -> Engine:
    """Open the engine of a runtime on the CPU in float32; skip the test if the runtime is not installed."""
    pytest.importorskip(runtime)
    if runtime == "onnxruntime":
        return OnnxRuntimeEngine(path, EngineSettings("cpu", 0, workers, threads, batch))
    return OpenVinoEngine(path, EngineSettings("cpu", 0, workers, threads, batch))
