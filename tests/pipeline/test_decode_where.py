"""Images are decoded on the device that infers them, and the status shows it."""

from __future__ import annotations

import logging
import threading

import pytest

from tests.pipeline.fakes import EchoEngine, FakeSource, add, make_supervisor
from tests.pipeline.live_fakes import Camera, Connection, Rig, lane_of
from tests.support import media
from tests.support.waiting import wait_until
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.status import StreamState
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.stream.find import open_source
from vision_infer.stream.source import LiveOptions, Source, SourceSpec

NO_SUCH_GPU = 63


class GpuEngine(EchoEngine):
    """An engine whose slots are on a GPU."""

    def __init__(self, gpu: int) -> None:
        super().__init__()
        self.gpu = gpu


def test_each_lane_selects_the_gpu_that_decodes_its_streams() -> None:
    opened: dict[str, int | None] = {}
    sources = [FakeSource(number, 1) for number in range(4)]

    def open_stream(spec: SourceSpec, threads: int, stopping: threading.Event) -> Source:
        opened[spec.name] = spec.gpu
        return sources[int(spec.name[1:])]

    lanes = [lane_of("cpu", EchoEngine()), lane_of("first", GpuEngine(0)), lane_of("second", GpuEngine(1))]
    lanes.append(lane_of("soon", EchoEngine()))
    lanes[-1].next_gpus = {1}  # an engine for this GPU is being built
    with Supervisor(lanes, open_stream=open_stream) as supervisor:
        for source, lane in zip(sources, lanes, strict=True):
            supervisor.add(AddStream(source.spec, lane.name))
        assert supervisor.wait(30)
    assert opened == {"s0": None, "s1": 0, "s2": 1, "s3": 1}


def test_a_stream_in_another_lane_is_decoded_on_its_gpu_from_the_next_connection() -> None:
    camera = Camera(0)
    gpus: list[int | None] = []

    class Watching(Rig):
        def open(self, spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> Connection:
            gpus.append(spec.gpu)
            return super().open(spec, decode_threads, stopping)

    with Watching(engine=GpuEngine(0)) as rig:
        rig.supervisor.add_lane(lane_of("other", GpuEngine(1)))
        command = rig.add(camera)
        rig.give(camera)
        rig.change(command, lane="other")
        rig.give(camera)
        camera.end()
        wait_until(lambda: len(gpus) == 2, "the next connection")
        rig.give(camera)
    assert gpus == [0, 1]


def test_the_reason_why_a_gpu_does_not_decode_is_in_the_status_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    path = str(media.clip(media.H264))
    spec = SourceSpec("yard", "live", (path,), live=LiveOptions(max_age_s=60, loop=True))

    class Real(Rig):
        def open(self, spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> Source:  # type: ignore[override]
            return open_source(spec, decode_threads, stopping)

    with caplog.at_level(logging.WARNING), Real(engine=GpuEngine(NO_SUCH_GPU)) as rig:
        rig.supervisor.add(AddStream(spec, "main"))
        status = rig.wait_state(StreamState.LIVE, "yard")
        wait_until(lambda: rig.status("yard").decoded > 3)
        status = rig.status("yard")
    (warning,) = status.warnings
    assert warning.startswith("is decoded on the CPU: FFmpeg cannot use cuda:63")
    assert (status.decoder, status.decoder_bytes) == ("cpu", None)
    ours = [record.message for record in caplog.records if record.name.startswith("vision_infer")]
    assert ours == [f"yard: {warning}"]


def test_a_stream_decoded_on_the_host_logs_no_reason() -> None:
    source = FakeSource(0, 2)
    with make_supervisor(EchoEngine(), [source]) as supervisor:
        supervisor.add(add(source))
        assert supervisor.wait(30)
        (status,) = supervisor.statuses()
    assert (status.decoder, status.warnings) == ("cpu", ())
