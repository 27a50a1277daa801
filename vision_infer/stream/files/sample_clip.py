"""A synthetic clip that resembles a camera's video, to measure the cost of decoding on a machine without video files."""

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
"""The key-frame interval in seconds, and the number of times that the group is repeated, since encoding is slow."""
SECONDS = GROUP_S * GROUPS
"""The duration of a clip."""
_VERSION = 1
"""Increased when the same arguments give another clip."""
_ENCODERS = {
    "h264": ("libx264", {"preset": "veryfast", "tune": "zerolatency", "x264-params": "sliced-threads=0:scenecut=0"}),
    "hevc": ("libx265", {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "log-level=none:scenecut=0"}),
}
_NOISE = 3.0
"""The standard deviation of the sensor noise, of 255."""


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """The properties of a clip."""

    codec: str
    """The codec, ``h264`` or ``hevc``."""
    size: Size
    fps: int = 15

    @property
    def frames_per_group(self) -> int:
        """The number of frames of a key-frame interval."""
        return GROUP_S * self.fps

    @property
    def bit_rate(self) -> int:
        """The usual bit rate of a camera with this frame size and rate, bits per second (4 Mbit/s for 1080p at 15 frames/s)."""
        share = self.size.width * self.size.height / (1920 * 1080)
        return int(4_000_000 * share**0.75 * (self.fps / 15) ** 0.5 * (0.6 if self.codec == "hevc" else 1.0))


def sample_clip(spec: ClipSpec, folder: Path) -> Path:
    """Return the clip's file, and create it in a second or two if it does not exist.

    Raises:
        StreamError: This build of FFmpeg lacks the encoder, or the file cannot be written.
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
        message = f"cannot create a sample clip of {spec.codec} {spec.size}: {error}"
        raise StreamError(message, "Run 'vision-infer doctor' to check the codecs.") from error
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
        stream.bit_rate, stream.gop_size = spec.bit_rate, spec.frames_per_group
        scene = _ClipScene(spec.size)
        coded: list[tuple[int, int, bytes, bool]] = []
        for index in range(spec.frames_per_group):
            frame = av.VideoFrame.from_ndarray(scene.at(index / spec.fps), format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, spec.fps)
            coded += _fields(stream.encode(frame))
        coded += _fields(stream.encode(None))
        for number in range(GROUPS * len(coded)):
            repetition, at = divmod(number, len(coded))
            pts, dts, data, is_key = coded[at]
            packet = av.Packet(data)
            shift = repetition * spec.frames_per_group
            packet.pts, packet.dts = pts + shift, dts + shift
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, spec.fps), is_key, stream
            output.mux(packet)


def _fields(packets: list[Packet[VideoStream]]) -> list[tuple[int, int, bytes, bool]]:
    """Return PTS, DTS, data, and whether it is a key frame, of each packet."""
    return [(packet.pts or 0, packet.dts or 0, bytes(packet), packet.is_keyframe) for packet in packets]


class _ClipScene:
    """A still background with texture at all scales, three moving squares, and noise."""

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
        """Return the planes Y, U and V below each other, uint8 [H × 3 / 2, W]."""
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
    """Return random texture of many scales, the finer ones weaker: int16 [H, W], about 40–210."""
    from vision_infer.core.opencv import cv2

    whole = np.zeros((size.height, size.width), np.float32)
    cells, height = 4, 1.0
    while cells <= max(size.width, size.height) // 2:
        coarse = chance.normal(0, 1, (max(2, cells * size.height // size.width), cells)).astype(np.float32)
        whole += height * cv2.resize(coarse, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
        cells, height = cells * 2, height * (1 - finest)
    return np.asarray(np.clip(125 + 35 * whole, 40, 210), np.int16)
