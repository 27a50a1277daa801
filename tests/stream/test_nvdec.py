"""Decoding on a GPU, as far as it can be tested without one: the choice of the decoder, its messages, and writing into slots."""

from __future__ import annotations

import itertools
import threading
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
from tests.support.device_frames import count_whole_frames, image_on, on_device
from tests.support.gpu import needs_cuda, needs_driver
from vision_infer.core.errors import DeviceLostError, StreamError
from vision_infer.core.geometry import Letterbox, Size, letterbox
from vision_infer.engine.engine import HostSlot
from vision_infer.engine.gpu.device_buffers import DeviceSlot
from vision_infer.engine.gpu.ledger import ledger_of
from vision_infer.engine.gpu.surface_reader import DeviceReader, surface_reader
from vision_infer.stream import nvdec
from vision_infer.stream.crop import Crops
from vision_infer.stream.find import open_source
from vision_infer.stream.image import VideoImage
from vision_infer.stream.live.live_source import LiveSource
from vision_infer.stream.nvdec import Decoding, NvdecImage, decoder_bytes, wanted_gpu
from vision_infer.stream.orientation import UPRIGHT, Orientation
from vision_infer.stream.source import Decode, LiveOptions, ReadReport, SourceSpec

NO_SUCH_GPU = 63
FELL_BACK = "is decoded on the CPU: FFmpeg cannot use cuda:63"


@pytest.fixture(autouse=True)
def whole_frames(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes of the frames that FFmpeg would copy from the GPU as a whole."""
    return count_whole_frames(monkeypatch)


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


def _fails() -> Any:
    raise av.error.ExternalError(-542398533, "Generic error in an external library")


# Its frames


def slot_on(device: HostDevice, size: Size) -> DeviceSlot:
    host = device.allocate_host(size.width * size.height * 3).reshape(size.height, size.width, 3)
    return DeviceSlot(host, device, device.allocate(host.nbytes))


def content(device: HostDevice, slot: DeviceSlot) -> NDArray[np.uint8]:
    """Return what is in a slot on the device after its batch was submitted."""
    assert slot.surface is not None
    device.write_surfaces([(slot.address, *slot.surface)], device.make_stream())
    return device.at(slot.address, slot._pixels.nbytes).reshape(slot._pixels.shape)


def expected_in_slot(frame: av.VideoFrame, box: Letterbox, turned: Orientation = UPRIGHT) -> NDArray[np.uint8]:
    slot = HostSlot(np.zeros((box.input.height, box.input.width, 3), np.uint8))
    VideoImage(frame, turned).write_into(slot, box)
    return slot.pixels


def away(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the mean difference."""
    assert found.shape == expected.shape
    return float(np.abs(found.astype(int) - expected).mean())


@pytest.mark.parametrize("kind", ["nv12", "p010le"])
def test_a_gpu_frame_is_written_into_a_gpu_slot_without_a_host_copy(
    kind: str, frame: av.VideoFrame, whole_frames: list[Any]
) -> None:
    device = HostDevice()
    slot = slot_on(device, Size(64, 64))
    box = letterbox(Size(frame.width, frame.height), Size(64, 64), "center", (114, 114, 114))
    image_on(device, frame, kind=kind).write_into(slot, box)
    assert away(content(device, slot), expected_in_slot(frame, box)) < 1.5
    assert not slot._pixels.any()
    assert (device.copied_out, whole_frames) == ([], [])


@pytest.mark.parametrize("why", ["turned", "another kind", "another GPU", "no slot of a GPU", "no kernels"])
@pytest.mark.parametrize("read", [False, True])
def test_a_frame_that_cannot_be_written_on_the_gpu_goes_through_the_host(
    why: str, read: bool, frame: av.VideoFrame, whole_frames: list[Any]
) -> None:
    """With a reader, only the resized image is copied; without one, the whole frame."""
    device = HostDevice()
    slot: Any = slot_on(device, Size(64, 64))
    if why == "no slot of a GPU":
        slot = HostSlot(slot.pixels)
    if why == "no kernels":
        device.problem = "NVRTC is not installed"
    turned = Orientation(turns=1) if why == "turned" else UPRIGHT
    kind = "yuv444p" if why == "another kind" else "nv12"
    image = NvdecImage(on_device(frame, kind), turned, why == "another GPU", DeviceReader(HostDevice()) if read else None)
    box = letterbox(image.size, Size(64, 64), "center", (114, 114, 114))
    image.write_into(slot, box)
    assert away(slot.pixels, expected_in_slot(frame.reformat(format=kind), box, turned)) < 1.5
    assert whole_frames == ([] if read and why != "another kind" else [(frame.width, frame.height)])


def test_a_gpu_frame_can_be_read_on_the_host(frame: av.VideoFrame, whole_frames: list[Any]) -> None:
    for image in (NvdecImage(on_device(frame), UPRIGHT, 0), image_on(HostDevice(), frame)):
        assert away(image.to_rgb(), VideoImage(frame).to_rgb()) < 2
    assert NvdecImage(on_device(frame), UPRIGHT, 0).upright(Size(64, 64)) is None
    assert len(whole_frames) == 1


@pytest.mark.parametrize("kind", ["nv12", "p010le"])
@pytest.mark.parametrize("turned", [UPRIGHT, Orientation(turns=1), Orientation(mirrored=True, turns=2)])
def test_only_the_samples_of_the_gate_are_copied(
    turned: Orientation, kind: str, frame: av.VideoFrame, whole_frames: list[Any]
) -> None:
    device = HostDevice()
    for most in (160, 40, 33):
        samples = image_on(device, frame, turned, kind).luma(most)
        plain = frame.reformat(format=kind)
        assert np.array_equal(samples, VideoImage(plain, turned).luma(most)), "the same as on the CPU"
        assert device.copied_out[-1] == samples.nbytes
    assert not whole_frames


def test_a_small_yuv_image_is_copied_for_encoders(frame: av.VideoFrame, whole_frames: list[Any]) -> None:
    device = HostDevice()
    image = image_on(device, frame)
    small = image.upright(Size(64, 48))
    assert small is not None
    assert (small.format.name, small.colorspace) == ("yuv420p", image._frame.colorspace)
    assert small.color_range == frame.color_range
    assert away(small.to_ndarray(), frame.reformat(64, 48, "yuv420p", interpolation="BILINEAR").to_ndarray()) < 1.5
    assert device.copied_out == [64 * 48 * 3 // 2]
    assert not whole_frames


BOXES = [(10.2, 8.7, 60.0, 40.0), (0.0, 0.0, 3.0, 90.0), (31.0, 21.0, 32.0, 22.0), (-5.0, 50.0, 700.0, 900.0)]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_crops_are_cut_out_on_the_gpu(turns: int, mirrored: bool, frame: av.VideoFrame, whole_frames: list[Any]) -> None:
    """The crop, and only as many bytes as its pixels in the slot, is copied to the host; nothing if the slot is on the GPU."""
    device, turned = HostDevice(), Orientation(mirrored, turns)
    mine, plain = Crops(image_on(device, frame, turned)), Crops(VideoImage(frame, turned))
    for corners in BOXES:
        one, other = (crops.part(np.array(corners, np.float32)) for crops in (mine, plain))
        assert one.size == other.size
        assert away(one.to_rgb(), other.to_rgb()) < 4
        assert device.copied_out[-1] == one.size.width * one.size.height * 3
        box = letterbox(one.size, Size(32, 32), "center", (114, 114, 114))
        slots = [HostSlot(np.zeros((32, 32, 3), np.uint8)) for _ in range(2)]
        for crop, slot in zip((one, other), slots, strict=True):
            crop.write_into(slot, box)
        assert away(slots[0].pixels, slots[1].pixels) < 6
        assert device.copied_out[-1] == box.content.width * box.content.height * 3
        if turned == UPRIGHT:
            there, copies = slot_on(device, Size(32, 32)), len(device.copied_out)
            one.write_into(there, box)
            assert away(content(device, there), slots[0].pixels) == 0
            assert len(device.copied_out) == copies
    assert not whole_frames


@pytest.mark.parametrize("turned", [UPRIGHT, Orientation(True, 1)])
def test_a_crop_of_a_crop_is_cut_at_its_place_in_the_frame(turned: Orientation, frame: av.VideoFrame) -> None:
    whole = image_on(HostDevice(), frame, turned)
    outer, direct = whole.crop(40, 20, Size(64, 48)), whole.crop(48, 26, Size(32, 24))
    assert outer is not None
    assert direct is not None
    inner = outer.crop(8, 6, Size(32, 24))
    assert inner is not None
    assert np.array_equal(inner.to_rgb(), direct.to_rgb())


def test_crops_of_a_frame_without_a_reader_are_cut_on_the_host(frame: av.VideoFrame, whole_frames: list[Any]) -> None:
    crops = Crops(NvdecImage(on_device(frame), UPRIGHT, 0))
    for corners in BOXES:
        crops.part(np.array(corners, np.float32)).to_rgb()
    assert len(whole_frames) == 1


def test_if_reading_fails_the_whole_frame_is_copied_and_the_log_says_it_once(
    frame: av.VideoFrame, whole_frames: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    device = HostDevice(capacity=100)
    image, plain = image_on(device, frame), VideoImage(frame)
    crop = image.crop(4, 4, Size(20, 10))
    assert crop is not None
    assert away(image.to_rgb(), plain.to_rgb()) < 1.5
    assert away(crop.to_rgb(), plain.to_rgb()[4:14, 4:24]) < 1.5
    assert image.luma(40).shape == plain.luma(40).shape
    assert image.upright(Size(64, 48)) is None
    assert len(whole_frames) == 3
    (line,) = caplog.messages
    assert line == "host:0: decoded frames are copied to host memory as a whole: out of memory"


def test_memory_for_reading_is_used_again(frame: av.VideoFrame) -> None:
    device = HostDevice()
    image = image_on(device, frame)
    image.luma(40)
    image.to_rgb()
    used = device.used
    for _ in range(5):
        image.luma(40)
        image.to_rgb()
    assert device.used == used
    assert ledger_of(device).report().used["decoder"] == used // 2, "the other half is in host memory"


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


@pytest.mark.gpu
@needs_driver
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
@needs_cuda
def test_a_gpu_makes_decoded_frames_small(monkeypatch: pytest.MonkeyPatch, whole_frames: list[Any]) -> None:
    monkeypatch.setattr(nvdec, "reader_of", surface_reader)
    path = media.bikes()
    with open_source(spec_of(path, "nvdec", 0)) as there, open_source(spec_of(path, "cpu")) as here:
        for _, one, other in zip(range(20), there.frames(), here.frames(), strict=False):
            mine, plain = cast(NvdecImage, one.image), cast(VideoImage, other.image)
            assert away(mine.luma(160), plain.luma(160)) < 0.1
            assert away(mine.to_rgb(), plain.to_rgb()) < 1.5
            crop = mine.crop(21, 33, Size(100, 50))
            assert crop is not None
            assert away(crop.to_rgb(), plain.to_rgb()[33:83, 21:121]) < 1.5
            small, whole = mine.upright(Size(256, 144)), plain.upright(Size(256, 144))
            assert small is not None
            assert whole is not None
            assert away(small.to_ndarray(), whole.reformat(256, 144, "yuv420p", interpolation="BILINEAR").to_ndarray()) < 1.5


@pytest.mark.gpu
@needs_cuda
def test_a_gpu_writes_decoded_frames_into_its_own_memory() -> None:
    from vision_infer.engine.gpu.cuda import cuda_device

    device = cuda_device(0)
    stream, event = device.make_stream(), device.make_event()
    host = np.zeros((416, 416, 3), np.uint8)
    address = device.allocate(host.nbytes)
    path = media.bikes()
    with open_source(spec_of(path, "nvdec", 0)) as there, open_source(spec_of(path, "cpu")) as here:
        for number, (one, other) in enumerate(zip(there.frames(), here.frames(), strict=False)):
            slot = DeviceSlot(host, device, address)
            box = letterbox(one.image.size, Size(416, 416), "center", (114, 114, 114))
            one.image.write_into(slot, box)
            assert slot.surface is not None
            device.write_surfaces([(address, *slot.surface)], stream)
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
