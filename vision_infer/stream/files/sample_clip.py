"""A clip such as a camera sends, made here: what decoding costs can so be measured on a machine that holds no video."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vision_infer.core.errors import StreamError
from vision_infer.core.geometry import Size

GROUP_S, GROUPS = 2, 6
"""seconds from key frame to key frame, and how often they are repeated: encoding is slow"""
SECONDS = GROUP_S * GROUPS
"""length of a clip"""
_VERSION = 1
"""another one where the same arguments would give another clip"""
_ENCODERS = {
    "h264": ("libx264", {"preset": "veryfast", "tune": "zerolatency", "x264-params": "sliced-threads=0:scenecut=0"}),
    "hevc": ("libx265", {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "log-level=none:scenecut=0"}),
}
_NOISE = 3.0
"""standard deviation of a sensor's noise, of 255"""


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """What a clip is like."""

    codec: str
    """``h264`` or ``hevc``"""
    size: Size
    fps: int = 15

    @property
    def bit_rate(self) -> int:
        """Bits a second: what cameras are usually set to for such a picture (4 Mbit/s for 1080p at 15 frames a second)."""
        share = self.size.width * self.size.height / (1920 * 1080)
        return int(4_000_000 * share**0.75 * (self.fps / 15) ** 0.5 * (0.6 if self.codec == "hevc" else 1.0))


def sample_clip(spec: ClipSpec, folder: Path) -> Path:
    """The clip's file; made where it is not there yet, in a second or two.

    Raises:
        StreamError: this FFmpeg has no such encoder, or the file cannot be written.
    """
    name = f"{spec.codec}-{spec.size.width}x{spec.size.height}-{spec.fps}fps-v{_VERSION}.mp4"
    path = folder / name
    if path.is_file():
        return path
    part = folder / f".{os.getpid()}-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _encode(spec, part)
        part.replace(path)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise StreamError(f"no sample of {spec.codec} {spec.size} can be made: {error}", "see 'vision-infer doctor'") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return path


def _encode(spec: ClipSpec, path: Path) -> None:
    encoder, options = _ENCODERS[spec.codec]
    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream(encoder, rate=spec.fps, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = spec.size.width, spec.size.height, "yuv420p"
        stream.bit_rate, stream.gop_size = spec.bit_rate, GROUP_S * spec.fps
        scene = _Scene(spec.size)
        coded: list[tuple[int, int, bytes, bool]] = []
        for index in range(GROUP_S * spec.fps):
            frame = av.VideoFrame.from_ndarray(scene.at(index / spec.fps), format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, spec.fps)
            coded += _told(stream.encode(frame))
        coded += _told(stream.encode(None))
        for number in range(GROUPS * len(coded)):
            again, at = divmod(number, len(coded))
            pts, dts, data, is_key = coded[at]
            packet = av.Packet(data)
            packet.pts, packet.dts = pts + again * GROUP_S * spec.fps, dts + again * GROUP_S * spec.fps
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, spec.fps), is_key, stream
            output.mux(packet)


def _told(packets: list[Packet[VideoStream]]) -> list[tuple[int, int, bytes, bool]]:
    """Times, content, and whether it is a key frame, of each packet."""
    return [(one.pts or 0, one.dts or 0, bytes(one), one.is_keyframe) for one in packets]


class _Scene:
    """A still background with texture at all scales, three things that cross it, and noise."""

    def __init__(self, size: Size) -> None:
        chance = np.random.default_rng(1)
        self._size = size
        self._wall = _texture(size, chance)
        side = max(16, size.height // 5) // 2 * 2
        self._things = [_texture(Size(side, side), chance, 0.5) for _ in range(3)]
        noise = chance.normal(0, _NOISE, (size.height + 64, size.width + 64))
        self._noise = noise.round().astype(np.int16)
        self._shifts = chance.integers(0, 64, (997, 2))

    def at(self, seconds: float) -> NDArray[np.uint8]:
        """Planes Y, U and V below each other, uint8 [H × 3 / 2, W]."""
        width, height = self._size.width, self._size.height
        luma = self._wall.copy()
        side = len(self._things[0])
        for number, thing in enumerate(self._things):
            left = int((seconds * (0.11 + 0.07 * number) + 0.3 * number) % 1.0 * (width - side))
            top = int((0.2 + 0.3 * number) * (height - side))
            luma[top : top + side, left : left + side] = thing
        down, across = self._shifts[round(seconds * 1000) % len(self._shifts)]
        luma += self._noise[down : down + height, across : across + width]
        image = np.full((height * 3 // 2, width), 128, np.uint8)
        image[:height] = np.clip(luma, 16, 235)
        return image


def _texture(size: Size, chance: np.random.Generator, finest: float = 0.35) -> NDArray[np.int16]:
    """Random hills of many widths, the fine ones lower: int16 [H, W], about 40–210."""
    import cv2

    whole = np.zeros((size.height, size.width), np.float32)
    cells, height = 4, 1.0
    while cells <= max(size.width, size.height) // 2:
        coarse = chance.normal(0, 1, (max(2, cells * size.height // size.width), cells)).astype(np.float32)
        whole += height * cv2.resize(coarse, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
        cells, height = cells * 2, height * (1 - finest)
    return np.asarray(np.clip(125 + 35 * whole, 40, 210), np.int16)
