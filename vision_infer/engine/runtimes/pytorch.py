"""PyTorch as the reference: the same deployment graph, computed by other code, on the CPU or on a GPU.

It is there for comparison; ``auto`` never chooses it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from vision_infer.engine.engine import Engine
from vision_infer.engine.runtime import EngineSettings, Runtime
from vision_infer.engine.store.cache import EngineCache, OnMessage


def _open(compiled: bool, path: Path, settings: EngineSettings, _: EngineCache | None, on_message: OnMessage) -> Engine:
    from vision_infer.engine.runtimes.torch_model import TorchEngine, open_torch_on_cuda

    if settings.device == "cpu":
        return TorchEngine(path, settings, compiled)
    return open_torch_on_cuda(path, settings, on_message, compiled)


RUNTIMES = tuple(
    Runtime(
        name,
        "PyTorch",
        partial(_open, compiled),
        modules=("torch",),
        packages=("torch",),
        extra="export",
        benefit="" if compiled else "to export models from PyTorch",
        devices=("cpu", "cuda"),
        smoke_tested=not compiled,  # torch.compile takes a minute
    )
    for name, compiled in (("torch", False), ("torchcompile", True))
)
