"""A stream is decoded on a GPU only if that has memory for its decoder; the others go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.engine.host_device import HostDevice
from tests.pipeline.fakes import EchoEngine, FakeSource
from tests.pipeline.live_fakes import lane_of
from vision_infer.core.errors import DeviceLostError
from vision_infer.core.frame import Frame
from vision_infer.engine.gpu.ledger import ledger_of
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.stream.nvdec import Decoding, decoder_bytes
from vision_infer.stream.source import Decode, ReadReport, Source, SourceSpec, StreamInfo

EACH = decoder_bytes(1920, 1080, False)


class GpuEngine(EchoEngine):
    """An engine whose slots are on a GPU."""

    gpu = 0

    def __init__(self, device: HostDevice) -> None:
        super().__init__()
        self.device = device


class GpuSource(FakeSource):
    """A source that allocates a decoder on the device when its first frame is decoded, as FFmpeg does."""

    def __init__(self, number: int, spec: SourceSpec, device: HostDevice, all_open: threading.Barrier) -> None:
        super().__init__(number, 2)
        self._spec = spec
        self._device = device
        self._all_open = all_open
        self._address: int | None = None

    @property
    def info(self) -> StreamInfo:
        on_gpu = self._spec.gpu is not None and not self._spec.no_gpu and self._spec.decode != "cpu"
        return replace(super().info, decoder="cuda:0" if on_gpu else "cpu", decoder_bytes=EACH if on_gpu else None)

    def frames(self) -> Iterator[Frame]:
        self._all_open.wait(20)
        if self.info.decoder_bytes:
            self._address = self._device.allocate(self.info.decoder_bytes)
        try:
            yield from super().frames()
            self._all_open.wait(20)
        finally:
            if self._address is not None:
                self._device.free(self._address)


def run(device: HostDevice, count: int, decode: Decode = "auto") -> list[SourceSpec]:
    """Run streams that are open at the same time; return how they were opened."""
    specs: list[SourceSpec] = []
    all_open = threading.Barrier(count)

    def open_stream(spec: SourceSpec, threads: int, stopping: threading.Event) -> Source:
        specs.append(spec)
        return GpuSource(int(spec.name[1:]), spec, device, all_open)

    with Supervisor([lane_of("main", GpuEngine(device))], max_active=count, open_stream=open_stream) as supervisor:
        for number in range(count):
            supervisor.add(AddStream(replace(FakeSource(number, 2).spec, decode=decode), "main"))
        assert supervisor.wait(30)
        assert [record.results for record in supervisor.records()] == [2] * count, "no stream is lost"
    return specs


@pytest.mark.parametrize("decode", ["auto", "nvdec"])
def test_streams_that_do_not_fit_are_decoded_on_the_cpu(decode: Decode) -> None:
    device = HostDevice(capacity=3 * EACH + EACH // 2)
    specs = run(device, 8, decode)
    refused = [spec for spec in specs if spec.no_gpu]
    assert len(refused) == 5
    assert refused[0].no_gpu == (
        "about 107 MB are needed for its decoder, but host:0 has 374 of 374 MB free, 321 MB of them promised (in use: nothing)"
    )
    report = ledger_of(device).report()
    assert (report.promised, report.used["decoder"]) == (0, 0), "the memory of closed streams is free again"


def test_a_second_process_on_the_gpu_leaves_room_for_fewer_streams() -> None:
    device = HostDevice(capacity=4 * EACH)
    device.allocate(3 * EACH)
    specs = run(device, 3)
    refused = [spec.no_gpu for spec in specs if spec.no_gpu]
    assert len(refused) == 2
    assert "CUDA and other programs 321" in refused[0]


def test_streams_on_the_cpu_need_none() -> None:
    assert not any(spec.no_gpu for spec in run(HostDevice(capacity=EACH // 2), 3, "cpu"))


def test_a_gpu_that_is_gone_decodes_nothing() -> None:
    class Gone(HostDevice):
        def memory(self) -> tuple[int, int]:
            raise DeviceLostError("cuda:0 is no longer there")

    assert [spec.no_gpu for spec in run(Gone(), 2)] == ["cuda:0 is no longer there"] * 2


def test_the_decoder_reports_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> str:
        raise AssertionError("the GPU is not tested")

    monkeypatch.setattr("vision_infer.stream.nvdec._problem", never)
    report = ReadReport()
    spec = SourceSpec("yard", "live", ("rtsp://camera/",), gpu=0, no_gpu="cuda:0 has 80 of 8192 MB free")
    decoding = Decoding(spec, report)
    assert (decoding.where, decoding.hwaccel) == ("cpu", None)
    assert report.warnings == ["is decoded on the CPU: cuda:0 has 80 of 8192 MB free"]
