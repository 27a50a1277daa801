"""Models on the device in host memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.engine.host_device import HostContext, HostDevice, HostStream, Work
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.contract import OutputShapes
from vision_infer.engine.gpu.accelerator import DeviceMemoryError


class MeanModel:
    """A model that computes the same as ``tests.engine.graphs.tiny_graph``: scores that are the mean of the image / 255."""

    device_bytes = 1000

    def __init__(self, device: HostDevice, card: ModelCard, candidates: int = 4) -> None:
        self.outputs: OutputShapes = {
            "boxes": ((candidates, 4), np.dtype(np.float32)),
            "scores": ((candidates,), np.dtype(np.float32)),
            "class_ids": ((candidates,), np.dtype(np.int32)),
        }
        self._device = device
        self._place = card.input.width * card.input.height * 3
        self._context = HostContext()
        self.closed = False

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: HostStream) -> None:
        """Compute when the stream reaches it; all batches share one context."""
        self._run(self._context, count, images, outputs, stream)

    def recordable(self, count: int, images: int, outputs: Mapping[str, int], stream: HostStream) -> Work:
        """Return a function that computes a batch in its own context."""
        context = HostContext()
        return lambda: self._run(context, count, images, outputs, stream)

    def warmed_up(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Note that it is closed."""
        self.closed = True

    def compute(self, count: int, images: int, outputs: Mapping[str, int]) -> None:
        """Compute at once."""
        at = self._device.at
        means = at(images, count * self._place).reshape(count, -1).mean(1) / 255
        candidates = self.outputs["scores"][0][0]
        at(outputs["scores"], count * candidates * 4).view(np.float32).reshape(count, -1)[:] = means[:, None]

    def _run(self, context: HostContext, count: int, images: int, outputs: Mapping[str, int], stream: HostStream) -> None:
        assert not self.closed
        context.set_shape(count)
        self._device.run(context, stream, lambda: self.compute(count, images, outputs))


class FailingModel:
    """A model that fails on request.

    Args:
        model: The model that computes.
        largest: The largest batch that the device has memory for.
        recorded: Whether it can be recorded.
    """

    def __init__(self, model: Any, largest: int = 1000, recorded: bool = True) -> None:
        self._model = model
        self._largest = largest
        self._recorded = recorded
        self.failures = 0
        """The number of failures to come."""
        self.enqueued: list[int] = []
        """The sizes of the batches that were queued."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:
        """Fail, or compute the batch."""
        self._fail(count)
        self._model.enqueue(count, images, outputs, stream)

    def recordable(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> Work | None:
        """Return a function that fails, or computes the batch; None if it cannot be recorded."""
        if not self._recorded:
            return None
        run = self._model.recordable(count, images, outputs, stream)

        def run_or_fail() -> None:
            self._fail(count)
            run()

        return run_or_fail

    def _fail(self, count: int) -> None:
        self.enqueued.append(count)
        if count > self._largest:
            raise DeviceMemoryError("out of memory")
        if self.failures:
            self.failures -= 1
            raise EngineError("it failed", "as requested")
