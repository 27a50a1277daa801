"""Decoding on a GPU, as far as it can be tested without one: the choice of the decoder, its messages, and writing into slots."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from tests.engine.host_device import HostDevice
from tests.support import media
from tests.support.gpu import needs_gpu
from vision_infer.core.geometry import Size, letterbox
from vision_infer.core.image import Surface
from vision_infer.engine.engine import HostSlot
from vision_infer.engine.gpu.device_buffers import DeviceSlot
from vision_infer.stream import image as image_module
from vision_infer.stream import nvdec
from vision_infer.stream.find import open_source
from vision_infer.stream.image import VideoImage
from vision_infer.stream.live.live_source import LiveSource
from vision_infer.stream.nvdec import Decoding, NvdecImage, decoder_bytes, wanted_gpu
from vision_infer.stream.orientation import UPRIGHT, Orientation
from vision_infer.stream.source import Decode, LiveOptions, ReadReport, SourceSpec

NO_SUCH_GPU = 63
FELL_BACK = "is decoded on the CPU: FFmpeg cannot use cuda:63"


class OnDevice:
    """A frame as from a GPU decoder, although its planes are in host memory."""

    format = SimpleNamespace(name="cuda", is_rgb=False, has_palette=False)

    def __init__(self, frame: av.VideoFrame, kind: str) -> None:
        self.plain = frame.reformat(format=kind)
        self.width, self.height, self.planes = frame.width, frame.height, self.plain.planes
        self.colorspace, self.color_range, self.color_primaries = frame.colorspace, frame.color_range, frame.color_primaries
        self.sw_format = SimpleNamespace(name=kind)


def on_device(frame: av.VideoFrame, kind: str = "nv12") -> av.VideoFrame:
    """Return the frame as if a GPU had decoded it."""
    return cast("av.VideoFrame", OnDevice(frame, kind))


@pytest.fixture(autouse=True)
def copied_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace FFmpeg's copy from the GPU."""
    real = image_module._to_rgb24

    def copied(frame: Any, width: int, height: int) -> NDArray[np.uint8]:
        return real(getattr(frame, "plain", frame), width, height)

    monkeypatch.setattr(image_module, "_to_rgb24", copied)


def spec_of(path: Path, decode: Decode = "auto", gpu: int | None = None, **more: Any) -> SourceSpec:
    return SourceSpec("clip", "video", (str(path),), decode=decode, gpu=gpu, **more)


def read_images(spec: SourceSpec) -> tuple[list[NDArray[np.uint8]], list[str], str]:
    with open_source(spec) as source:
        found = [frame.image.to_rgb() for frame in source.frames()]
        assert source.report.gaps == 0
        return found, source.report.warnings, source.info.decoder


@pytest.fixture
def frame() -> av.VideoFrame:
    return media.decoded(media.clip(media.H264))[3]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as if FFmpeg found each requested GPU."""
    monkeypatch.setattr(nvdec, "_problem", lambda spec, gpu: nvdec._failed.get(nvdec._key(spec), ""))
    monkeypatch.setattr(nvdec, "_failed", type(nvdec._failed)())


def context(**more: Any) -> VideoCodecContext:
    values = {"is_hwaccel": True, "name": "h264", "width": 1920, "height": 1080, "profile": "High", "thread_count": 4, **more}
    return cast("VideoCodecContext", SimpleNamespace(**values))


# The choice of the decoder


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


# The decoder during a connection


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


def test_a_decoder_that_has_worked_stays_in_use(on_gpu: None, frame: av.VideoFrame) -> None:
    decoding = Decoding(spec_of(Path("a.mp4"), gpu=0), ReadReport())
    decoding.opened(context())
    decoding.image(on_device(frame), UPRIGHT)
    assert not decoding.failed("damaged")
    assert decoding.where == "cuda:0"


def test_the_number_of_remembered_failures_is_limited(on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvdec, "_MAX_FAILED", 3)
    for number in range(5):
        Decoding(spec_of(Path(f"{number}.mp4"), gpu=0), ReadReport()).failed("x")
    assert len(nvdec._failed) == 3


def test_a_file_restarts_on_the_cpu_if_the_gpu_fails(on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media.clip(media.H264)
    expected, *_ = read_images(spec_of(path, "cpu"))
    opened: list[str] = []
    monkeypatch.setattr(nvdec, "_hwaccel", lambda gpu: None)
    monkeypatch.setattr(Decoding, "opened", lambda decoding, _: opened.append(decoding.where))
    with open_source(spec_of(path, gpu=0)) as source:
        real, fail = source._next_packet, [True]  # type: ignore[attr-defined]

        def next_packet() -> Any:
            packet = real()
            return SimpleNamespace(size=1, is_corrupt=False, decode=_fails, pts=0) if fail and fail.pop() else packet

        monkeypatch.setattr(source, "_next_packet", next_packet)
        found = [frame.image.to_rgb() for frame in source.frames()]
        assert source.info.decoder == "cpu"
        assert source.report.warnings == ["is decoded on the CPU: the GPU decoder failed: Generic error in an external library"]
    assert opened == ["cuda:0", "cpu"]
    assert len(found) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def _fails() -> Any:
    raise av.error.ExternalError(-542398533, "Generic error in an external library")


# Its frames


def test_a_gpu_frame_is_written_into_a_gpu_slot_without_a_host_copy(frame: av.VideoFrame) -> None:
    device, size = HostDevice(), Size(64, 64)
    stream, held, host = device.make_stream(), cast("list[object]", []), np.zeros((64, 64, 3), np.uint8)
    address = device.allocate(host.nbytes)
    slot = DeviceSlot(host, device, address, stream, held)
    box = letterbox(Size(frame.width, frame.height), size, "center", (114, 114, 114))
    device.write_surface = lambda address, surface, *rest: HostDevice.write_surface(  # type: ignore[method-assign]
        device, address, with_planes(surface), *rest
    )
    NvdecImage(on_device(frame), UPRIGHT, 0).write_into(slot, box)
    assert slot.on_device
    assert not host.any()
    assert held, "the frame is kept until it has been read"
    expected = HostSlot(np.zeros((64, 64, 3), np.uint8))
    VideoImage(frame).write_into(expected, box)
    away = np.abs(device.at(address, host.nbytes).reshape(64, 64, 3).astype(int) - expected.pixels)
    assert away.mean() < 1.5


@pytest.mark.parametrize("why", ["turned", "another kind", "another GPU", "no slot of a GPU"])
def test_a_frame_that_cannot_be_written_on_the_gpu_is_copied_through_the_host(why: str, frame: av.VideoFrame) -> None:
    device, size = HostDevice(), Size(64, 64)
    host = np.zeros((64, 64, 3), np.uint8)
    held: list[object] = []
    slot: Any = DeviceSlot(host, device, device.allocate(host.nbytes), device.make_stream(), held)
    if why == "no slot of a GPU":
        slot = HostSlot(host)
    turned = Orientation(turns=1) if why == "turned" else UPRIGHT
    made = on_device(frame, "yuv444p" if why == "another kind" else "nv12")
    image = NvdecImage(made, turned, 1 if why == "another GPU" else 0)
    box = letterbox(image.size, size, "center", (114, 114, 114))
    image.write_into(slot, box)
    expected = HostSlot(np.zeros((64, 64, 3), np.uint8))
    VideoImage(cast("OnDevice", made).plain, turned).write_into(expected, box)
    assert not held
    assert np.array_equal(host, expected.pixels)


def test_a_gpu_frame_can_be_read_on_the_host(frame: av.VideoFrame) -> None:
    image = NvdecImage(on_device(frame), UPRIGHT, 0)
    assert image.upright is None
    assert np.abs(image.to_rgb().astype(int) - VideoImage(frame).to_rgb()).mean() < 1.5


def with_planes(surface: Surface) -> Surface:
    """Return the surface with its planes as arrays, as the replacement for the kernel reads them."""

    def at(address: int, pitch: int, rows: int) -> NDArray[np.uint8]:
        return np.ctypeslib.as_array((ctypes.c_uint8 * (pitch * rows)).from_address(address)).reshape(rows, pitch)

    size = surface.size
    luma = at(surface.luma, surface.luma_pitch, size.height)[:, : size.width]
    chroma = at(surface.chroma, surface.chroma_pitch, -(-size.height // 2))[:, : -(-size.width // 2) * 2]
    return replace(surface, owner=(luma, chroma.reshape(len(chroma), -1, 2)))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("recipe", [media.H264, media.B_FRAMES])
def test_a_gpu_decodes_the_same_pixels_as_the_cpu(recipe: media.Clip) -> None:
    path = media.clip(recipe)
    expected, *_ = read_images(spec_of(path, "cpu"))
    found, warnings, decoder = read_images(spec_of(path, "nvdec", 0))
    assert (warnings, decoder) == ([], "cuda:0")
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 1.5


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_writes_decoded_frames_into_its_own_memory() -> None:
    from vision_infer.engine.gpu.cuda import cuda_device

    device = cuda_device(0)
    stream, event = device.make_stream(), device.make_event()
    host = np.zeros((416, 416, 3), np.uint8)
    address = device.allocate(host.nbytes)
    path = media.bikes()
    with open_source(spec_of(path, "nvdec", 0)) as there, open_source(spec_of(path, "cpu")) as here:
        for number, (one, other) in enumerate(zip(there.frames(), here.frames(), strict=False)):
            slot = DeviceSlot(host, device, address, stream, [])
            box = letterbox(one.image.size, Size(416, 416), "center", (114, 114, 114))
            one.image.write_into(slot, box)
            assert slot.on_device
            found = np.empty_like(host)
            device.copy_out(found, address, stream)
            device.record(event, stream)
            device.synchronize(event)
            expected = HostSlot(np.zeros_like(host))
            other.image.write_into(expected, box)
            assert np.abs(found.astype(int) - expected.pixels).mean() < 1.5
            if number == 20:
                break
    device.free(address)
    device.destroy(stream, event)
