"""Engines on a device in host memory and on a GPU, and what tests do with them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.engine.graphs import tiny_graph
from tests.engine.host_device import HostDevice
from tests.engine.host_models import FailingModel, MeanModel
from tests.engine.surfaces import make_surface
from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.core.image import Surface
from vision_infer.engine.engine import Loan, Ticket
from vision_infer.engine.gpu.device_engine import DeviceEngine

SIZES = (1, 2, 4, 8)


class World:
    """An engine on a device that returns the brightness of its images.

    Args:
        kind: ``host`` or ``cuda``.
        card: The card of the model.
        folder: The folder for the graph.
        seed: Chooses the order of the device's work; None: the order of the calls.
    """

    def __init__(self, kind: Literal["host", "cuda"], card: ModelCard, folder: Path, seed: int | None = None) -> None:
        self.kind = kind
        self.card = card
        self.said: list[str] = []
        self.device: Any
        if kind == "host":
            self.device = HostDevice(None if seed is None else random.Random(seed))
            self._model: Any = MeanModel(self.device, card)
        else:
            from vision_infer.engine.gpu.cuda import cuda_device
            from vision_infer.engine.runtimes.torch_model import TorchModel

            self.device = cuda_device(0)
            path = folder / "tiny.onnx"
            self._model = TorchModel(path if path.exists() else tiny_graph(path, card), "cuda:0")

    def open(self, in_flight: int = 2, largest: int = 1000, recorded: bool = True, graphs: bool = True) -> DeviceEngine:
        """Open the engine."""
        self.model = FailingModel(self._model, largest, recorded)
        return DeviceEngine("x-host-fp32", self.card, self.model, self.device, SIZES, in_flight, self.said.append, graphs)

    @contextmanager
    def surface(self, value: int) -> Iterator[Surface]:
        """Return a gray full-range frame on the device."""
        luma, chroma = np.full((18, 26), value, np.uint8), np.full((9, 13, 2), 128, np.uint8)
        if self.kind == "host":
            yield make_surface(luma, chroma, full_range=True)
            return
        places = [self.device.allocate(plane.nbytes) for plane in (luma, chroma)]
        stream = self.device.make_stream()
        for place, plane in zip(places, (luma, chroma), strict=True):
            self.device.copy_in(place, plane, stream)
        self.device.destroy(stream)
        yield Surface(Size(26, 18), places[0], 26, places[1], 26, 1, 1, True, 0, None)
        for place in places:
            self.device.free(place)


def fill(loan: Loan, values: list[int]) -> Loan:
    for slot, value in zip(loan.slots, values, strict=True):
        slot.pixels[:] = value
    return loan


def brightness(engine: DeviceEngine, ticket: Ticket) -> list[float]:
    raw = engine.collect(ticket)
    assert 0 < raw.started_ns <= raw.ended_ns
    return [float(score) * 255 for score in raw.outputs["scores"][:, 0]]


def run(engine: DeviceEngine, values: list[int]) -> list[float]:
    return brightness(engine, engine.submit(fill(engine.lend(len(values)), values)))
