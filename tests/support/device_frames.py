"""Frames as from a GPU decoder, although their planes are in host memory, and a reader on a stand-in device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import av
import pytest
from numpy.typing import NDArray

from tests.engine.host_device import HostDevice
from vision_infer.engine.gpu.surface_reader import DeviceReader
from vision_infer.stream import image as image_module
from vision_infer.stream.nvdec import NvdecImage
from vision_infer.stream.orientation import UPRIGHT, Orientation


class OnDevice:
    """A frame as from a GPU decoder."""

    format = SimpleNamespace(name="cuda", is_rgb=False, has_palette=False)

    def __init__(self, frame: av.VideoFrame, kind: str) -> None:
        self.plain = frame.reformat(format=kind)
        self.width, self.height, self.planes = frame.width, frame.height, self.plain.planes
        self.colorspace, self.color_range, self.color_primaries = frame.colorspace, frame.color_range, frame.color_primaries
        self.sw_format = SimpleNamespace(name=kind)


def on_device(frame: av.VideoFrame, kind: str = "nv12") -> av.VideoFrame:
    """Return the frame as if a GPU had decoded it."""
    return cast("av.VideoFrame", OnDevice(frame, kind))


def image_on(device: HostDevice, frame: av.VideoFrame, turned: Orientation = UPRIGHT, kind: str = "nv12") -> NvdecImage:
    """Return the frame as an image on a device, which has a reader."""
    return NvdecImage(on_device(frame, kind), turned, 0, DeviceReader(device))


def count_whole_frames(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Replace FFmpeg's copy of a whole frame from the GPU; return the list of the frames' sizes that it copies."""
    real, copied = image_module._to_rgb24, list[tuple[int, int]]()

    def copy(frame: Any, width: int, height: int) -> NDArray[Any]:
        if isinstance(frame, OnDevice):
            copied.append((frame.width, frame.height))
        return real(getattr(frame, "plain", frame), width, height)

    monkeypatch.setattr(image_module, "_to_rgb24", copy)
    return copied
