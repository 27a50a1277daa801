"""Measure what a batch costs the CPU on the GPU's driver, with a model that only writes its outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.device_cost import BATCH, DeviceImage, calls_of_a_batch, padded
from benchmarks.gpu.plan import Row, Step
from benchmarks.null_device import NullModel
from benchmarks.own_cost import CARD, OUTPUTS, SIZE
from vision_infer.core.geometry import letterbox
from vision_infer.core.image import Surface
from vision_infer.engine.gpu.accelerator import Accelerator
from vision_infer.engine.gpu.device_engine import DeviceEngine, batch_sizes_up_to

BATCHES = 500
BUSY_THREADS = 4


class CopyModel(NullModel):
    """A model that copies its outputs from the host on its stream."""

    def __init__(self, device: Accelerator, outputs: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(outputs)
        self._device = device
        self._host = {}
        for name, array in outputs.items():
            block = device.allocate_host(BATCH * array.nbytes)
            block[:] = np.ascontiguousarray(np.broadcast_to(array, (BATCH, *array.shape))).reshape(-1).view(np.uint8)
            self._host[name] = block

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:  # noqa: ARG002
        """Queue the copies."""
        for name, block in self._host.items():
            self._device.copy_in(outputs[name], block[: count * (block.nbytes // BATCH)], stream)


def steps() -> Iterator[Step]:
    """Yield the steps."""
    for on_device in (True, False):
        for busy in (0, BUSY_THREADS):
            where = "device" if on_device else "host"
            yield f"images on the {where}, {busy} busy threads", partial(_rows, on_device, busy)


def _rows(on_device: bool, busy: int) -> Iterator[Row]:
    from vision_infer.engine.gpu.cuda import cuda_device

    yield measured(cuda_device(0), on_device, busy)


def measured(device: Accelerator, on_device: bool, busy: int, batches: int = BATCHES) -> Row:
    """Return the times of a batch, while other threads of this process compute in Python.

    Args:
        on_device: Whether the images are in device memory, as NVDEC leaves them.
        busy: The number of those threads.
    """
    surfaces = [device.allocate(SIZE.width * SIZE.height * 3 // 2) for _ in range(BATCH)]
    layout = letterbox(SIZE, CARD.input_size, CARD.fit, CARD.fill)
    outputs = padded(OUTPUTS)
    model = CopyModel(device, outputs)
    write_ns = submit_ns = collect_ns = 0
    sizes = batch_sizes_up_to(BATCH)
    with DeviceEngine("copy", CARD, model, device, sizes) as engine, _busy_threads(busy):
        engine.warm_up()
        cpu = time.thread_time_ns()
        for _ in range(batches):
            loan = engine.lend(BATCH)
            began = time.monotonic_ns()
            for address, slot in zip(surfaces, loan.slots, strict=True):
                if on_device:
                    DeviceImage(_surface(address, device.index)).write_into(slot, layout)
                else:
                    slot.pixels[0, 0] = 0
            written = time.monotonic_ns()
            ticket = engine.submit(loan)
            submitted = time.monotonic_ns()
            raw = engine.collect(ticket)
            write_ns, submit_ns = write_ns + written - began, submit_ns + submitted - written
            collect_ns += time.monotonic_ns() - submitted
        cpu = time.thread_time_ns() - cpu
    good = all(np.array_equal(raw.outputs[name][-1], array) for name, array in outputs.items())
    for address in surfaces:
        device.free(address)
    times = {"write_us": write_ns, "submit_us": submit_ns, "collect_us": collect_ns, "thread_cpu_us": cpu}
    return {
        "images_on_device": on_device,
        "busy_threads": busy,
        "batch": BATCH,
        **{name: round(value / 1000 / batches, 1) for name, value in times.items()},
        "driver_calls": calls_of_a_batch(BATCH if on_device else 0)["all"],
        "outputs_are_right": good,
    }


def _surface(address: int, device: int) -> Surface:
    width, height = SIZE.width, SIZE.height
    return Surface(SIZE, address, width, address + width * height, width, 1, 1, False, device, None)


@contextmanager
def _busy_threads(count: int) -> Iterator[None]:
    """Let threads compute in Python meanwhile."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.001):
            sum(range(10_000))  # about 200 µs

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
