"""What the consumers of frames in GPU memory copy to the host: never more than the small, scaled or cut image that they need."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext

from tests.engine.host_device import HostDevice
from tests.service import fakes
from tests.support import media
from tests.support.device_frames import count_whole_frames, on_device
from tests.support.hand_clock import HandClock
from vision_infer.analyze.draw import Drawer
from vision_infer.config.preview import PreviewSettings
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.trace import Trace
from vision_infer.engine.gpu.surface_reader import DeviceReader
from vision_infer.pipeline.workers.gating import MAX_SAMPLES, StreamGate
from vision_infer.preview.encoder import _Coder, scaled_size
from vision_infer.service.results.snapshot import of_result
from vision_infer.sink.files.crops import CropsSink
from vision_infer.sink.files.video import VideoSink
from vision_infer.sink.sink import OutputSpec
from vision_infer.stream import nvdec
from vision_infer.stream.image import VideoImage
from vision_infer.stream.nvdec import Decoding
from vision_infer.stream.orientation import UPRIGHT, Orientation
from vision_infer.stream.source import ReadReport, SourceSpec

FRAMES = media.decoded(media.bikes())[:60:4]
WIDTH, HEIGHT = FRAMES[0].width, FRAMES[0].height


class Gpu:
    """A stand-in for a GPU with a decoder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device = HostDevice()
        reader = DeviceReader(self.device)
        monkeypatch.setattr(nvdec, "reader_of", lambda _: reader, raising=False)
        monkeypatch.setattr(nvdec, "_problem", lambda *_: "")
        self.whole = count_whole_frames(monkeypatch)
        """The sizes of the frames that were copied as a whole."""
        spec = SourceSpec("door", "video", ("a.mp4",), decode="nvdec", gpu=0)
        self._decoding = Decoding(spec, ReadReport())
        found = {"is_hwaccel": True, "width": WIDTH, "height": HEIGHT, "profile": "High"}
        self._decoding.opened(cast("VideoCodecContext", SimpleNamespace(**found)))

    def frame(self, number: int = 0, turned: Orientation = UPRIGHT) -> Frame:
        """Return a frame of a stream."""
        image = self._decoding.image(on_device(FRAMES[number]), turned)
        return Frame("door", number, number * 0.16, image, Trace())

    @property
    def copied(self) -> list[int]:
        """The bytes of each copy to the host."""
        assert not self.whole
        return self.device.copied_out


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def test_the_gate_copies_its_samples_and_decides_as_on_the_cpu(gpu: Gpu) -> None:
    there, here = StreamGate(1.0, None), StreamGate(1.0, None)
    for number, frame in enumerate(FRAMES):
        time_ns = number * 160_000_000
        plain = VideoImage(frame.reformat(format="nv12"))
        assert there.wants(gpu.frame(number).image, time_ns) == here.wants(plain, time_ns)
    step = -(-WIDTH // MAX_SAMPLES)
    assert gpu.copied == [-(-WIDTH // step) * -(-HEIGHT // step)] * len(FRAMES)
    assert max(gpu.copied) * step * step <= 1.1 * WIDTH * HEIGHT


@pytest.mark.parametrize("turned", [UPRIGHT, Orientation(turns=3)])
def test_the_preview_copies_the_size_that_it_encodes(gpu: Gpu, turned: Orientation) -> None:
    settings = PreviewSettings(encode_height=180)
    coder = _Coder("H264", settings, "captured")
    for number in range(3):
        assert coder.encode(gpu.frame(number, turned)) is not None
    shown = Size(HEIGHT, WIDTH) if turned.turns % 2 else Size(WIDTH, HEIGHT)
    size = scaled_size(shown, 180)
    assert gpu.copied == [size.width * size.height * 3 // (1 if turned.turns else 2)] * 3


def test_annotated_video_copies_the_size_that_it_draws_on(gpu: Gpu, tmp_path: Path) -> None:
    spec = OutputSpec("video", str(tmp_path / "small.mp4"), height=120)
    sink = VideoSink(spec, Drawer(), None, Fraction(25), None)
    for number in range(3):
        sink.write(gpu.frame(number), fakes.result(index=number))
    sink.close(True)
    with_width = media.decoded(tmp_path / "small.mp4")[0].width
    assert gpu.copied == [with_width * 120 * 3] * 3


def test_crops_of_detections_copy_the_crops(gpu: Gpu, tmp_path: Path) -> None:
    sink = CropsSink(OutputSpec("crops", str(tmp_path)), "door")
    sink.write(gpu.frame(), fakes.result(found={"person": 0.9}))
    (path,) = tmp_path.rglob("*.jpg")
    (crop,) = media.decoded(path)
    assert gpu.copied == [crop.width * crop.height * 3] == [29 * 38 * 3]  # the box is (1, 2, 30, 40)


def test_full_size_drawings_copy_the_image_that_they_show(gpu: Gpu, tmp_path: Path) -> None:
    snapshot = of_result(gpu.frame(), fakes.result(), True, HandClock())
    assert (snapshot.width, snapshot.height) == (WIDTH, HEIGHT)
    sink = VideoSink(OutputSpec("video", str(tmp_path / "all.mp4")), Drawer(), None, Fraction(25), None)
    sink.write(gpu.frame(), None)
    sink.close(True)
    assert gpu.copied == [WIDTH * HEIGHT * 3] * 2
    shown = np.asarray(media.decoded(tmp_path / "all.mp4")[0].to_ndarray(format="rgb24"))
    assert np.abs(shown.astype(int) - VideoImage(FRAMES[0]).to_rgb()).mean() < 4
