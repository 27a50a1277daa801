"""The ledger of a GPU's memory, over the device in host memory."""

from __future__ import annotations

import gc
import threading
from types import ModuleType, SimpleNamespace

import pytest

from tests.engine.host_device import HostDevice
from tests.engine.host_models import MeanModel
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import DeviceLostError, EngineError
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.gpu.device_engine import DeviceEngine
from vision_infer.engine.gpu.ledger import MemoryLedger, gpu_memory_of, kept_for_a_build, ledger_of, ledger_of_gpu

MB = 1_000_000


def cuda_module() -> ModuleType:
    """Return the module of CUDA's driver API; skip the test where its bindings are not installed."""
    pytest.importorskip("cuda.bindings.driver")
    from vision_infer.engine.gpu import cuda

    return cuda


def device_of(megabytes: int) -> HostDevice:
    return HostDevice(capacity=megabytes * MB)


def test_there_is_one_ledger_for_each_device() -> None:
    one, other = device_of(1), device_of(1)
    assert ledger_of(one) is ledger_of(one)
    assert ledger_of(one) is not ledger_of(other)


def test_what_was_promised_is_not_promised_again() -> None:
    device = device_of(250)
    ledger = ledger_of(device)
    ledger.add("decoder", 100 * MB, "its decoder", lambda: (100 * MB, False))
    second = ledger.add("decoder", 100 * MB, "its decoder", lambda: (100 * MB, False))
    with pytest.raises(DeviceMemoryError) as caught:
        ledger.add("decoder", 100 * MB, "its decoder", lambda: (100 * MB, False))
    assert caught.value.message == (
        "about 100 MB are needed for its decoder, but host:0 has 250 of 250 MB free, 200 MB of them promised (in use: nothing)"
    )
    ledger.remove(second)
    ledger.remove(second)
    ledger.add("decoder", 100 * MB, "its decoder", lambda: (100 * MB, False))


def test_what_is_allocated_counts_once() -> None:
    device = device_of(250)
    ledger = ledger_of(device)
    allocated = False
    ledger.add("decoder", 100 * MB, "its decoder", lambda: (120 * MB, allocated))
    with pytest.raises(DeviceMemoryError):
        ledger.check(140 * MB, "its decoder")
    device.allocate(120 * MB)
    allocated = True
    ledger.check(130 * MB, "its decoder")


def test_what_no_entry_explains_belongs_to_cuda_and_other_programs() -> None:
    device = device_of(1000)
    ledger = ledger_of(device)
    device.allocate(300 * MB)  # a second process on the GPU
    device.allocate(500 * MB)
    ledger.note("engine", 450 * MB)
    graphs = ledger.note("graphs", 50 * MB)
    report = ledger.report()
    assert (report.device, report.total, report.free) == ("host:0", 1000 * MB, 200 * MB)
    assert report.used == {"engine": 450 * MB, "graphs": 50 * MB, "decoder": 0, "builder": 0, "other": 300 * MB}
    with pytest.raises(DeviceMemoryError, match=r"engines 450, CUDA graphs 50, CUDA and other programs 300\)$"):
        ledger.check(201 * MB, "the plan")
    ledger.remove(graphs)
    assert ledger.report().used["other"] == 350 * MB, "it is the remainder of what the device reports"


def test_threads_that_start_together_share_the_free_memory() -> None:
    ledger = ledger_of(device := device_of(1000))
    start, admitted = threading.Barrier(64), []

    def try_it() -> None:
        start.wait()
        try:
            admitted.append(ledger.add("decoder", 100 * MB, "its decoder", lambda: (100 * MB, False)))
        except DeviceMemoryError:
            return

    threads = [threading.Thread(target=try_it) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 10
    assert device.memory()[0] == 1000 * MB


def test_memory_is_kept_free_for_a_build_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = cuda_module()
    device = device_of(1000)
    monkeypatch.setattr(cuda, "cuda_device", lambda index: device)
    assert ledger_of_gpu(0) is ledger_of(device)
    with kept_for_a_build("cuda:0"), kept_for_a_build("cpu"):
        assert ledger_of(device).report().promised == 250 * MB
        with pytest.raises(DeviceMemoryError, match="250 MB of them promised"):
            ledger_of(device).check(751 * MB, "its decoder")
    ledger_of(device).check(1000 * MB, "its decoder")


def test_what_a_build_in_another_process_allocates_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    device, ledger = device_of(1000), None
    monkeypatch.setattr(cuda_module(), "cuda_device", lambda index: device)
    device.allocate(200 * MB)  # another program
    with kept_for_a_build("cuda:0"):
        ledger = ledger_of(device)
        there = device.allocate(150 * MB)  # of the 200 MB that the build may use
        memory = ledger.report()
        assert (memory.free, memory.promised) == (650 * MB, 50 * MB)
        assert (memory.used["builder"], memory.used["other"]) == (150 * MB, 200 * MB)
        ledger.check(600 * MB, "its decoder")
        with pytest.raises(DeviceMemoryError, match="builds 150, CUDA and other programs 200"):
            ledger.check(601 * MB, "its decoder")
        device.allocate(100 * MB)  # another program, at the same time
        memory = ledger.report()
        assert (memory.promised, memory.used["builder"], memory.used["other"]) == (0, 200 * MB, 250 * MB)
        device.free(there)
    assert ledger.report().promised == 0


def test_without_a_gpu_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = cuda_module()

    def missing(index: int) -> HostDevice:
        raise EngineError("there is no NVIDIA driver")

    monkeypatch.setattr(cuda, "cuda_device", missing)
    assert ledger_of_gpu(0) is None
    with kept_for_a_build("cuda:0"):
        pass


def test_an_engine_is_counted_from_its_opening_to_its_end(card: ModelCard) -> None:
    device = device_of(1000)
    model = MeanModel(device, card)
    with DeviceEngine("mean", card, model, device, (1, 2)) as engine:
        engine.warm_up()
        memory = gpu_memory_of(engine)
        assert memory is not None
        assert memory.used["engine"] == model.device_bytes + engine.buffer_bytes
        assert memory.used["graphs"] == 0, "the stand-in's graphs need no memory"
        assert memory.used["other"] < 2 * 3 * 256, "the outputs are at multiples of 256"
    assert ledger_of(device).report().used == dict.fromkeys(memory.used, 0)


def test_what_the_warm_up_allocates_counts_as_graphs(card: ModelCard) -> None:
    class Growing(MeanModel):
        def warmed_up(self) -> None:
            self._device.allocate(3 * MB)

    device = device_of(1000)
    with DeviceEngine("mean", card, Growing(device, card), device, (1,)) as engine:
        engine.warm_up()
        memory = gpu_memory_of(engine)
    assert memory is not None
    assert memory.used["graphs"] == 3 * MB


def test_a_full_gpu_refuses_an_engine_in_one_line(card: ModelCard) -> None:
    device = device_of(1000)
    device.allocate(1000 * MB - 1000)  # a second process on the GPU
    with pytest.raises(DeviceMemoryError) as caught:
        DeviceEngine("mean", card, MeanModel(device, card), device, (8,))
    assert caught.value.message == (
        "about 0 MB are needed for its buffers, but host:0 has 0 of 1000 MB free (in use: CUDA and other programs 1000)"
    )
    assert caught.value.hint == "Close other programs on it, or use another device."


def test_an_engine_on_the_cpu_and_a_gpu_that_is_gone_report_no_memory(card: ModelCard) -> None:
    class Gone(HostDevice):
        def memory(self) -> tuple[int, int]:
            raise DeviceLostError("cuda:0 is no longer there")

    assert gpu_memory_of(object()) is None
    assert gpu_memory_of(SimpleNamespace(device=Gone())) is None


def test_a_ledger_does_not_keep_its_device() -> None:
    ledger = MemoryLedger(device_of(1))
    gc.collect()
    with pytest.raises(EngineError, match="host:0 is closed"):
        ledger.report()
