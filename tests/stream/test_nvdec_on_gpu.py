"""Decoding on a real GPU."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from tests.stream.nvdec_cases import away, read_images, spec_of, whole_frames
from tests.support import media
from tests.support.gpu import needs_cuda, needs_driver
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.engine import HostSlot
from vision_infer.engine.gpu.device_buffers import DeviceSlot
from vision_infer.engine.gpu.surface_reader import surface_reader
from vision_infer.stream import nvdec
from vision_infer.stream.find import open_source
from vision_infer.stream.image import VideoImage
from vision_infer.stream.nvdec import NvdecImage

__all__ = ["whole_frames"]


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
