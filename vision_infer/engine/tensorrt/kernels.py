"""The kernels that TensorRT-RTX compiles for the machine's GPU when a plan runs, stored next to the plan for the next start.

32 bytes   SHA-256 of the kernels
kernels    the runtime cache, serialized by the runtime, which checks the GPU and all versions when it loads them
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from vision_infer.engine.store.cache import KERNELS, OnMessage
from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.checked_file import read_checked, write_checked
from vision_infer.engine.tensorrt.plan_file import PlanFile


def kernels_file(plan: PlanFile, gpu: str) -> Path | None:
    """Return the file of a plan's kernels for a GPU, by its name; None if the plan is not cached."""
    which = hashlib.sha256(gpu.encode()).hexdigest()[:8]
    return None if plan.file is None else plan.file.with_name(KERNELS.replace("*", which))


class Kernels:
    """The compiled kernels of a loaded plan. Without TensorRT-RTX there are none, and nothing happens.

    Args:
        config: The runtime configuration, from which the contexts are created afterwards.
        file: Where the kernels are kept; None: they are not.
        on_message: Receives that stored kernels cannot be used, or that new ones cannot be stored.
    """

    def __init__(self, api: Api, config: Any, file: Path | None, on_message: OnMessage) -> None:
        self._file = file
        self._on_message = on_message
        self._stored: bytes | None = b""
        self._cache: Any = None
        strategies = getattr(api.module, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return
        # Compile the kernels for a batch size when it first runs: otherwise the graph would keep the slower general ones.
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self._cache = config.create_runtime_cache()
        if self._cache is None:
            return
        self._stored = b"" if file is None else read_checked(file)
        if self._stored is None or (self._stored and not self._cache.deserialize(self._stored)):
            self._stored = b""
            on_message(f"{file}: the stored kernels are damaged, or for another GPU or driver; they are compiled again")
        config.set_runtime_cache(self._cache)

    def store(self) -> None:
        """Store the kernels if there are new ones; a failure is reported, and costs time at the next start only."""
        content = None if self._cache is None or self._file is None else self._cache.serialize()
        if self._file is None or content is None or bytes(content) == self._stored:
            return
        try:
            write_checked(self._file, bytes(content))
            self._stored = bytes(content)
        except OSError as error:
            self._on_message(f"{self._file}: the compiled kernels cannot be stored: {error.strerror}")

    def close(self) -> None:
        """Free them."""
        self._cache = None
