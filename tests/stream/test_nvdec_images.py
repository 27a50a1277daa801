"""Frames of a GPU decoder: they are written into slots, cut and made small without copying the whole frame."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.host_device import HostDevice
from tests.stream.nvdec_cases import away, frame, whole_frames
from tests.support.device_frames import image_on, on_device
from vision_infer.core.geometry import Letterbox, Size, letterbox
from vision_infer.engine.engine import HostSlot
from vision_infer.engine.gpu.device_buffers import DeviceSlot
from vision_infer.engine.gpu.ledger import ledger_of
from vision_infer.engine.gpu.surface_reader import DeviceReader
from vision_infer.stream.crop import Crops
from vision_infer.stream.image import VideoImage
from vision_infer.stream.nvdec import NvdecImage
from vision_infer.stream.orientation import UPRIGHT, Orientation

__all__ = ["frame", "whole_frames"]


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
