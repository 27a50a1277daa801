"""What runs on CUDA: over the stand-in for the driver's library in a child process, and on a real GPU."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cuda.bindings import driver

from vision_infer.core.card import parse_card
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.core.image import Surface
from vision_infer.engine.contract import OutputShapes
from vision_infer.engine.gpu import cuda, surface_kernel
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.gpu.cuda import CudaDevice, cuda_device
from vision_infer.engine.gpu.device_engine import DeviceEngine
from vision_infer.engine.gpu.surface_kernel import MAX_TASKS
from vision_infer.engine.gpu.surface_reader import MAX_READS, DeviceReader, surface_reader

FIRST = 16
"""The number of bytes of each image that CopyModel returns."""


def fails(kind: type[BaseException], call: Callable[[], Any]) -> Any:
    """Return the error that a call must raise."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def main(call: Callable[[], Any]) -> None:
    """Print the error of a call, as the command line does; fail if there is none."""
    error = fails(EngineError, call)
    print(f"{type(error).__name__} {error.exit_status} {error}")


class CopyModel:
    """A model whose output is the first bytes of each image: it queues one copy for each."""

    device_bytes = 0

    def __init__(self) -> None:
        self.outputs: OutputShapes = {"first": ((FIRST,), np.dtype(np.uint8))}

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:
        """Queue the copies."""
        for at in range(count):
            source = images + at * 32 * 32 * 3
            if int(driver.cuMemcpyDtoDAsync(outputs["first"] + at * FIRST, source, FIRST, stream)[0]):
                raise EngineError("the runtime failed")

    def recordable(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> Callable[[], None]:
        """Return a function that queues the batch."""
        return lambda: self.enqueue(count, images, outputs, stream)

    def warmed_up(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: it has no memory."""


def open_engine(on_message: Callable[[str], None] = lambda _: None) -> DeviceEngine:
    """Open an engine of batches up to 8."""
    card = parse_card({"name": "tiny", "input": {"width": 32, "height": 32}, "labels": ["car"], "confidence": 0.25}, "tiny")
    return DeviceEngine("copy-cuda", card, CopyModel(), cuda_device(0), (1, 2, 4, 8), on_message=on_message)


def run_batch(engine: DeviceEngine, values: list[int]) -> None:
    """Run one batch, and check its results."""
    loan = engine.lend(len(values))
    for slot, value in zip(loan.slots, values, strict=True):
        slot.pixels[:] = value
    first = engine.collect(engine.submit(loan)).outputs["first"]
    assert (first == np.array(values)[:, None]).all(), (values, first)


def engine() -> None:
    """Run batches of each size with graphs, two at a time, from several threads."""
    with open_engine() as opened:
        opened.warm_up()
        for values in ([7], [1, 2, 3], list(range(8)), [9, 8]):
            run_batch(opened, values)
        loans = [opened.lend(2), opened.lend(5)]
        for value, loan in enumerate(loans):
            for slot in loan.slots:
                slot.pixels[:] = value + 30
        tickets = [opened.submit(loan) for loan in loans]
        assert [int(opened.collect(ticket).outputs["first"][-1, -1]) for ticket in reversed(tickets)] == [31, 30]
        thread = threading.Thread(target=run_batch, args=(opened, [50, 60]))
        thread.start()
        thread.join()


def copies() -> None:
    """Use every method of a device."""
    device = cuda_device(0)
    assert cuda_device(0) is device
    assert "cuda:99 does not exist" in str(fails(EngineError, lambda: cuda_device(99)))
    free, whole = device.memory()
    assert 0 < free <= whole
    fails(DeviceMemoryError, lambda: device.allocate(whole * 2))
    stream, first, last, untimed = device.make_stream(), device.make_event(), device.make_event(), device.make_event(timed=False)
    address, back, out = device.allocate(1 << 20), device.allocate_host(1 << 20), device.allocate_host(1 << 20)
    assert address % 256 == 0
    device.copy_out(out, address, stream)
    device.record(untimed, stream)
    device.synchronize(untimed)
    assert not out.any()
    back[:] = 7

    def there_and_back() -> None:
        device.copy_in(address, back, stream)
        device.copy_out(out, address, stream)

    graph = device.capture(stream, there_and_back)
    assert not out.any()
    device.record(first, stream)
    device.launch(graph, stream)
    device.record(last, stream)
    device.synchronize(last)
    assert (out == 7).all()
    assert device.elapsed_ms(first, last) > 0
    fails(EngineError, lambda: device.elapsed_ms(untimed, last))
    fails(ZeroDivisionError, lambda: device.capture(stream, lambda: 1 // 0))  # type: ignore[arg-type]
    device.launch(graph, stream)
    device.destroy(graph, stream, first, last, untimed)
    device.free(address)
    device.free_host(back)
    device.free_host(out)


def surface() -> None:
    """Read decoded frames with the real arguments of the kernels, more than one launch takes, and through a reader."""
    device = cuda_device(0)
    assert device.surface_problem() == ""
    stream, done = device.make_stream(), device.make_event()
    slot, luma, chroma = device.allocate(64 * 64 * 3), device.allocate(32 * 32), device.allocate(32 * 16)
    frame = Surface(Size(32, 32), luma, 32, chroma, 32, 1, 1, True, 0, None)
    box = letterbox(frame.size, Size(64, 64), "center", (114, 114, 114))
    device.write_surfaces([(slot, frame, box)] * (MAX_TASKS + 1), stream)
    device.record(done, stream)
    device.synchronize(done)
    reader = DeviceReader(device)
    threads = [threading.Thread(target=_read, args=(reader, frame)) for _ in range(2 * MAX_READS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    device.destroy(stream, done)
    for address in (slot, luma, chroma):
        device.free(address)
    for _ in range(MAX_READS):
        copy = reader._free.get()
        device.destroy(copy.stream, copy.event)
        if copy.host is not None:
            device.free(copy.address)
            device.free_host(copy.host)


def _read(reader: DeviceReader, frame: Surface) -> None:
    for _ in range(20):
        assert reader.luma(frame, 3).shape == (11, 11)  # type: ignore[union-attr]
        assert reader.rgb(frame, Size(200, 300)).shape == (300, 200, 3)  # type: ignore[union-attr]
        assert reader.yuv420(frame, Size(20, 10)).shape == (15, 20)  # type: ignore[union-attr]


def engine_without_kernels() -> None:
    """Run batches although the kernels for decoded frames cannot be compiled, and print the messages; ``NVRTC`` is why not."""
    if os.environ["NVRTC"] == "missing":
        sys.modules["cuda.bindings.nvrtc"] = None  # type: ignore[assignment]
    else:
        surface_kernel.SOURCE = "this is not C"
    frame = Surface(Size(32, 32), 4096, 32, 4096, 32, 1, 1, True, 0, None)
    with open_engine(print) as opened:
        for values in ([1, 2], [3, 4]):
            slot: Any = opened.lend(1)
            assert not slot.slots[0].write_surface(frame, letterbox(frame.size, Size(32, 32), "stretch", (0, 0, 0)))
            opened.release(slot)
            run_batch(opened, values)
        assert opened.gpu is None
    assert surface_reader(0) is None


def open_device() -> None:
    """Print the error of opening the first GPU."""
    main(lambda: cuda_device(0))


def open_and_log() -> None:
    """Open the first GPU with its log on standard error."""
    logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(message)s")
    cuda_device(0)


def full_gpu() -> None:
    """Print what an engine leaves out on a GPU with little memory, and its batch sizes or the error."""
    try:
        with open_engine(print) as opened:
            run_batch(opened, [1, 2])
            print(opened.batch_sizes)
    except EngineError as error:
        print(f"{type(error).__name__}: {error}")


def broken_engine() -> None:
    """Print the error of the first batch that fails, and check that closing the engine still works."""
    with open_engine() as opened:

        def batches() -> None:
            for _ in range(20):
                run_batch(opened, [1, 2])

        main(batches)


def _broken(rule: Callable[[CudaDevice, Any], Any]) -> Callable[[], None]:
    def case() -> None:
        device = cuda_device(0)
        rule(device, device.make_stream())

    return case


def _free_while_copying(device: CudaDevice, stream: Any) -> None:
    address = device.allocate(100)
    device.copy_in(address, device.allocate_host(100), stream)
    device.free(address)


def _use_after_free(device: CudaDevice, stream: Any) -> None:
    address = device.allocate(100)
    device.free(address)
    device.copy_in(address, np.zeros(100, np.uint8), stream)


def _kernel_that_reads_freed_memory(device: CudaDevice, stream: Any) -> None:
    assert device.surface_problem() == ""
    addresses = [device.allocate(1 << 12) for _ in range(3)]
    device.free(addresses[-1])
    device.write_luma(addresses[0], Surface(Size(32, 32), addresses[1], 32, addresses[2], 32, 1, 1, True, 0, None), 2, stream)


def kernel_with_an_absurd_size() -> None:
    """Read a frame that claims two thousand million columns."""
    device = cuda_device(0)
    assert device.surface_problem() == ""
    address = device.allocate(1000)
    frame = Surface(Size(2**31 - 1, 2), address, 32, address, 32, 1, 1, True, 0, None)
    box = letterbox(Size(2, 2), Size(4, 4), "center", (0, 0, 0))
    device.write_surfaces([(address, frame, box)], device.make_stream())


def context_without_flags() -> None:
    """Create a context without its flags."""
    driver.cuInit(0)
    driver.cuDevicePrimaryCtxRetain(driver.cuDeviceGet(0)[1])


event_never_recorded = _broken(lambda device, stream: device.wait(stream, device.make_event()))
synchronize_in_capture = _broken(
    lambda device, stream: device.capture(stream, lambda: cuda._done(driver.cuStreamSynchronize(driver.CUstream(1))))
)
allocate_in_capture = _broken(lambda device, stream: device.capture(stream, lambda: device.allocate(10)))  # type: ignore[arg-type]
free_while_copying = _broken(_free_while_copying)
use_after_free = _broken(_use_after_free)
kernel_that_reads_freed_memory = _broken(_kernel_that_reads_freed_memory)


class NothingFound(CopyModel):
    """A detector that finds nothing: its outputs stay zero."""

    def __init__(self) -> None:
        kinds = {"boxes": ((4, 4), np.float32), "scores": ((4,), np.float32), "class_ids": ((4,), np.int32)}
        self.outputs = {name: (shape, np.dtype(kind)) for name, (shape, kind) in kinds.items()}

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:
        """Queue nothing."""


def command() -> None:
    """Run the command ``COMMAND`` of the program; each of its engines is on the GPU."""
    from vision_infer.cli.main import main as run_command
    from vision_infer.engine.graph_facts import read_graph_facts
    from vision_infer.pipeline.lanes import opening
    from vision_infer.service.streams import lanes

    def open_it(path: Path, *_: Any) -> tuple[DeviceEngine, None]:
        return DeviceEngine("nothing-cuda", read_graph_facts(path).card, NothingFound(), cuda_device(0), (1,)), None

    for module in (opening, lanes):
        setattr(module, "open_quickly", open_it)  # noqa: B010 - the modules import it
    sys.argv = ["vision-infer", *os.environ["COMMAND"].split()]
    run_command()
