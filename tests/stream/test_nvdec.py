"""The choice of the GPU decoder, its memory and its failures, as far as they can be tested without a GPU."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from tests.engine.host_device import HostDevice
from tests.stream.nvdec_cases import context, frame, on_gpu, read_images, spec_of, whole_frames
from tests.support import media
from tests.support.device_frames import on_device
from vision_infer.core.errors import DeviceLostError, StreamError
from vision_infer.core.geometry import Size
from vision_infer.engine.gpu.surface_reader import DeviceReader
from vision_infer.stream import nvdec
from vision_infer.stream.find import open_source
from vision_infer.stream.image import VideoImage
from vision_infer.stream.live.live_source import LiveSource
from vision_infer.stream.nvdec import Decoding, NvdecImage, decoder_bytes, wanted_gpu
from vision_infer.stream.orientation import UPRIGHT
from vision_infer.stream.source import Decode, LiveOptions, ReadReport, SourceSpec

__all__ = ["frame", "on_gpu", "whole_frames"]


NO_SUCH_GPU = 63


FELL_BACK = "is decoded on the CPU: FFmpeg cannot use cuda:63"


@pytest.mark.parametrize(
    ("decode", "gpu", "wanted"),
    [("auto", None, None), ("auto", 1, 1), ("cpu", 1, None), ("nvdec", None, 0), ("nvdec", 1, 1)],
)
def test_frames_are_decoded_on_the_inferring_device_by_default(decode: Decode, gpu: int | None, wanted: int) -> None:
    assert wanted_gpu(SourceSpec("a", "video", ("a.mp4",), decode=decode, gpu=gpu)) == wanted


@pytest.mark.parametrize("decode", ["auto", "nvdec"])
def test_without_its_gpu_a_file_is_decoded_on_the_cpu_with_one_warning(decode: Decode) -> None:
    path = media.clip(media.B_FRAMES)
    expected, silent, _ = read_images(spec_of(path, "cpu", NO_SUCH_GPU))
    assert not silent
    found, warnings, decoder = read_images(spec_of(path, decode, NO_SUCH_GPU))
    (warning,) = warnings
    assert warning.startswith(FELL_BACK)
    assert "Operation" not in warning, "what FFmpeg says of it, not what its number is called"
    assert "\n" not in warning
    assert decoder == "cpu"
    assert len(found) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_without_its_gpu_a_live_source_is_decoded_on_the_cpu() -> None:
    path = str(media.clip(media.H264))
    live = LiveOptions(max_age_s=60)
    spec = SourceSpec("camera", "live", (path,), live=live, decode="nvdec", gpu=NO_SUCH_GPU)
    with LiveSource(spec, 1, threading.Event()) as source:
        frame = next(source.frames())
        assert source.report.warnings[0].startswith(FELL_BACK)
        assert source.info.decoder == "cpu"
        assert type(frame.image) is VideoImage


def test_a_gpu_that_is_not_requested_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(nvdec, "HWAccel")
    for decode in ("auto", "cpu"):
        assert read_images(spec_of(media.clip(media.H264), decode))[1:] == ([], "cpu")


def test_the_memory_of_the_decoder_is_known_before_the_first_frame(on_gpu: None) -> None:
    decoding = Decoding(spec_of(Path("a.mp4"), gpu=2), ReadReport())
    opened = context()
    decoding.opened(opened)
    assert (decoding.where, decoding.bytes) == ("cuda:2", decoder_bytes(1920, 1080, False))
    assert opened.thread_count == 1


def test_the_memory_grows_with_frame_size_and_bit_depth(on_gpu: None) -> None:
    small, large, deep = decoder_bytes(640, 360, False), decoder_bytes(3840, 2160, False), decoder_bytes(3840, 2160, True)
    assert small < large < deep
    assert large - small > 15 * (3840 * 2160 - 640 * 384) * 1.5
    decoding = Decoding(spec_of(Path("a.mp4"), gpu=0), ReadReport())
    decoding.opened(context(width=3840, height=2160, profile="Main 10"))
    assert decoding.bytes == deep


def test_a_codec_without_a_gpu_decoder_is_decoded_on_the_cpu(on_gpu: None) -> None:
    report = ReadReport()
    decoding = Decoding(spec_of(Path("a.mp4"), gpu=0), report)
    decoding.opened(context(is_hwaccel=False, name="ffv1"))
    assert (decoding.where, decoding.hwaccel, decoding.bytes) == ("cpu", None, None)
    assert report.warnings == ["is decoded on the CPU: this build of FFmpeg has no GPU decoder for ffv1"]


def test_a_fallback_to_the_cpu_is_reported_once(on_gpu: None, frame: av.VideoFrame) -> None:
    report = ReadReport()
    decoding = Decoding(spec_of(Path("a.mp4"), gpu=0), report)
    decoding.opened(context())
    assert type(decoding.image(on_device(frame), UPRIGHT)) is NvdecImage
    for _ in range(3):  # the frames have become too large for the GPU
        assert type(decoding.image(frame, UPRIGHT)) is VideoImage
    assert decoding.where == "cpu"
    assert len(report.warnings) == 1
    assert not decoding.failed("a later failure is not caused by the GPU")


def test_a_decoder_that_fails_at_once_is_not_used_again_for_the_source(on_gpu: None) -> None:
    spec, report = spec_of(Path("a.mp4"), gpu=0), ReadReport()
    decoding = Decoding(spec, report)
    decoding.opened(context())
    assert decoding.failed("Generic error in an external library")
    assert not decoding.failed("a second time")
    assert report.warnings == ["is decoded on the CPU: the GPU decoder failed: Generic error in an external library"]
    again = ReadReport()
    assert Decoding(spec, again).hwaccel is None
    assert "failed before: Generic error" in again.warnings[0]
    assert Decoding(spec_of(Path("b.mp4"), gpu=0), ReadReport()).hwaccel is not None


def test_a_decoder_that_fails_after_it_has_worked_is_not_used_again_for_the_source(on_gpu: None, frame: av.VideoFrame) -> None:
    spec, report = spec_of(Path("a.mp4"), gpu=0), ReadReport()
    decoding = Decoding(spec, report)
    decoding.opened(context())
    decoding.image(on_device(frame), UPRIGHT)
    assert decoding.failed("Generic error in an external library")
    assert (decoding.where, report.gpu_failures) == ("cpu", 1)
    assert report.warnings == ["is decoded on the CPU: the GPU decoder failed: Generic error in an external library"]
    assert Decoding(spec, ReadReport()).where == "cpu"


def test_a_gpu_that_is_lost_while_its_frames_are_read_ends_the_connection_and_is_not_used_again(
    on_gpu: None, frame: av.VideoFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(HostDevice):
        gone = False

        def use(self) -> None:
            if self.gone:
                raise DeviceLostError("CUDA: illegal address (error 700)", "See dmesg.")

    device = Lost()
    monkeypatch.setattr(nvdec, "reader_of", lambda gpu: DeviceReader(device))
    spec, report = spec_of(Path("a.mp4"), gpu=0), ReadReport()
    decoding = Decoding(spec, report)
    decoding.opened(context())
    image = decoding.image(on_device(frame), UPRIGHT)
    assert image.luma(160).any()
    device.gone = True
    for read in (lambda: image.luma(160), image.to_rgb, lambda: image.upright(Size(64, 48)), lambda: image.luma(40)):
        with pytest.raises(StreamError, match=r"clip: the GPU decoder failed\. The next connection decodes on the CPU\."):
            read()
    with pytest.raises(StreamError):  # the stream's own thread notices it as well
        decoding.image(on_device(frame), UPRIGHT)
    assert (decoding.where, report.gpu_failures) == ("cpu", 1)
    assert report.warnings == ["is decoded on the CPU: the GPU decoder failed: CUDA: illegal address (error 700)"]
    again = Decoding(spec, ReadReport())
    assert (again.where, type(again.image(frame, UPRIGHT))) == ("cpu", VideoImage)


def test_the_number_of_remembered_failures_is_limited(on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvdec, "_MAX_FAILED", 3)
    for number in range(5):
        Decoding(spec_of(Path(f"{number}.mp4"), gpu=0), ReadReport()).failed("x")
    assert len(nvdec._failed) == 3


@pytest.mark.parametrize("before", [0, 20])
@pytest.mark.parametrize("recipe", [media.H264, media.B_FRAMES])
def test_a_file_restarts_on_the_cpu_if_the_gpu_fails(
    on_gpu: None, monkeypatch: pytest.MonkeyPatch, before: int, recipe: media.Clip
) -> None:
    """Every frame is delivered once, also those before the failure."""
    path = media.clip(recipe)
    expected, *_ = read_images(spec_of(path, "cpu"))
    opened: list[str] = []
    monkeypatch.setattr(nvdec, "_hwaccel", lambda gpu: None)
    monkeypatch.setattr(Decoding, "opened", lambda decoding, _: opened.append(decoding.where))
    monkeypatch.setattr(Decoding, "image", lambda _, frame, orientation: VideoImage(frame, orientation))
    with open_source(spec_of(path, gpu=0)) as source:
        real, numbers = source._next_packet, itertools.count()  # type: ignore[attr-defined]

        def next_packet() -> Any:
            packet = real()
            return SimpleNamespace(size=1, is_corrupt=False, decode=_fails, pts=0) if next(numbers) == before else packet

        monkeypatch.setattr(source, "_next_packet", next_packet)
        found = [frame.image.to_rgb() for frame in source.frames()]
        assert source.info.decoder == "cpu"
        assert source.report.warnings == ["is decoded on the CPU: the GPU decoder failed: Generic error in an external library"]
        assert (source.report.gaps, source.report.gpu_failures) == (0, 1)
    assert opened == ["cuda:0", "cpu"]
    assert len(found) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_file_continues_on_the_cpu_if_another_thread_finds_the_gpu_lost(on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media.clip(media.B_FRAMES)
    expected, *_ = read_images(spec_of(path, "cpu"))
    opened: list[str] = []
    monkeypatch.setattr(nvdec, "_hwaccel", lambda gpu: None)
    monkeypatch.setattr(Decoding, "opened", lambda decoding, _: opened.append(decoding.where))
    monkeypatch.setattr(Decoding, "image", lambda _, frame, orientation: VideoImage(frame, orientation))
    with open_source(spec_of(path, gpu=0)) as source:
        found = []
        for frame in source.frames():
            found.append(frame.image.to_rgb())
            if len(found) in (7, 8):
                source._decoding.lost("CUDA: illegal address (error 700)")  # type: ignore[attr-defined]
        assert (source.info.decoder, source.report.gpu_failures, source.report.gaps) == ("cpu", 1, 0)
    assert opened == ["cuda:0", "cpu"]
    assert len(found) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def _fails() -> Any:
    raise av.error.ExternalError(-542398533, "Generic error in an external library")


def test_the_frames_of_a_decoder_get_the_reader_of_its_gpu(
    on_gpu: None, frame: av.VideoFrame, monkeypatch: pytest.MonkeyPatch, whole_frames: list[Any]
) -> None:
    asked, device = list[int](), HostDevice()

    def reader_of(gpu: int) -> DeviceReader:
        asked.append(gpu)
        return DeviceReader(device)

    monkeypatch.setattr(nvdec, "reader_of", reader_of)
    decoding = Decoding(spec_of(Path("a.mp4"), gpu=2), ReadReport())
    assert not asked, "not before the decoder works"
    decoding.opened(context())
    for _ in range(3):
        decoding.image(on_device(frame), UPRIGHT).luma(160)
    assert asked == [2]
    assert (len(device.copied_out), whole_frames) == (3, [])
