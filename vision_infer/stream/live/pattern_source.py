"""The built-in test pattern, ``test://``: a bouncing ball, with the time at which each frame was drawn as a time code.

``test://?size=1280x720&fps=15`` sets the frame size and rate. With the model ``clock``, the class number of a result is the time
at which its frame was drawn, so that the age of results can be measured without a camera.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.packet import PacketTap, VideoFormat
from vision_infer.core.time_code import MIN_HEIGHT, MIN_WIDTH, moment_ms
from vision_infer.core.trace import Trace
from vision_infer.stream.image import ArrayImage
from vision_infer.stream.redact import redact
from vision_infer.stream.source import ReadReport, SourceSpec, StreamInfo
from vision_infer.stream.time_code_reader import draw

SCHEME = "test://"
DEFAULT_SIZE = Size(640, 360)
DEFAULT_FPS = Fraction(30)
MAX_FPS = 240
_HINT = "Write test:// or, for example, test://?size=640x360&fps=30."
_SECOND = 1_000_000_000
_ACROSS_S, _DOWN_S = 3.1, 1.9
"""The time that the ball takes from side to side, and from top to bottom, seconds."""


class PatternSource:
    """A live source that draws its frames in real time.

    A frame is drawn when it is due and the caller asks for it. As with a camera, frames that the caller misses are lost.

    Args:
        spec: The source; its path is the ``test://`` URL.
        stopping: Ends the frames at once when it is set.
        clock: The clock that paces the frames; its monotonic time is drawn as the time code.

    Raises:
        StreamError: The URL has an unknown or invalid parameter.
    """

    def __init__(self, spec: SourceSpec, stopping: threading.Event, clock: Clock = SYSTEM_CLOCK) -> None:
        self.spec = spec
        self.report = ReadReport()
        self._stopping = stopping
        self._clock = clock
        self._size, self._fps = _parse(spec.paths[0], spec.read.max_pixels)
        self._scene = _PatternScene(self._size)
        self.info = StreamInfo(
            size=self._size,
            frames=None,
            duration_s=None,
            frame_rate=self._fps,
            time_base=1 / self._fps,
            codec="pattern",
            has_audio=False,
        )
        self._tap: PacketTap | None = None

    def show(self, tap: PacketTap) -> None:
        """Also pass frames to a tap; there are no packets."""
        self._tap = tap
        tap.opened(VideoFormat("rawvideo", size=self._size))

    def frames(self) -> Iterator[Frame]:
        """Yield the frames until the source is stopped."""
        begin = self._clock.monotonic_ns()
        turn = index = 0
        while not self._stopping.is_set():
            wait_ns = begin + round(turn * _SECOND / self._fps) - self._clock.monotonic_ns()
            if wait_ns > 0:
                self._stopping.wait(wait_ns / _SECOND)
                continue  # the wait may have ended early, or the clock may not be the system's
            now = self._clock.monotonic_ns()
            turn = max(turn, int((now - begin) * self._fps / _SECOND))
            image = self._scene.at(float(turn / self._fps))
            draw(image, moment_ms(now))
            trace = Trace(decode_start_ns=now, captured_ns=now, clock="camera")
            frame = Frame(self.spec.name, index, float(turn / self._fps), ArrayImage(image), trace)
            if self._tap is not None:
                self._tap.frame(frame)
            yield frame
            turn += 1
            index += 1

    def __enter__(self) -> PatternSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._tap is not None:
            self._tap.closed()


class _PatternScene:
    """A wall and a ball in a frame of this size."""

    def __init__(self, size: Size) -> None:
        down = np.linspace(0, 1, size.height)[:, None, None]
        across = np.linspace(0, 1, size.width)[None, :, None]
        wall = np.array([40, 60, 90]) + down * np.array([60, 40, 10]) + across * np.array([10, 30, 60])
        self._wall: NDArray[np.uint8] = wall.astype(np.uint8)
        self._side = size.height // 4
        places = (np.arange(self._side) + 0.5) / self._side * 2 - 1
        squares = places[:, None] ** 2 + places[None, :] ** 2
        self._inside = (squares <= 1)[..., None]
        bright = np.sqrt(np.clip(1 - squares, 0, 1))[..., None]
        self._ball: NDArray[np.uint8] = (bright * np.array([215, 150, 20]) + 40).clip(0, 255).astype(np.uint8)
        self._range = size.width - self._side, size.height - self._side

    def at(self, seconds: float) -> NDArray[np.uint8]:
        """Return a new image of the scene at a time, uint8 [H, W, 3] RGB."""
        image = self._wall.copy()
        left = round(_triangle(seconds / _ACROSS_S) * self._range[0])
        top = round(_triangle(seconds / _DOWN_S) * self._range[1])
        np.copyto(image[top : top + self._side, left : left + self._side], self._ball, where=self._inside)
        return image


def _triangle(value: float) -> float:
    """Return a triangle wave between 0 and 1 with the period 2."""
    return 1 - abs(value % 2 - 1)


def _parse(url: str, max_pixels: int) -> tuple[Size, Fraction]:
    """Return the size and rate that a URL names.

    Raises:
        StreamError: It has an unknown or invalid parameter.
    """
    shown = redact(url)
    parts = urlsplit(url)
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [redact(name) for name in parameters if name not in ("size", "fps")]
    if unknown or parts.fragment or parts.path not in ("", "/"):
        raise StreamError(f"{shown}: the test pattern has no {unknown[0] if unknown else 'path'}", _HINT)
    size, fps = DEFAULT_SIZE, DEFAULT_FPS
    if "size" in parameters:
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", parameters["size"], re.ASCII)
        size = Size(int(match[1]), int(match[2])) if match else Size(1, 1)
        if size.width < MIN_WIDTH or size.height < MIN_HEIGHT or size.width * size.height > max_pixels:
            hint = f"The size is WIDTHxHEIGHT, at least {MIN_WIDTH}x{MIN_HEIGHT} and at most {max_pixels} pixels in total."
            raise StreamError(f"{shown}: invalid size for the test pattern", hint)
    if "fps" in parameters:
        match = re.fullmatch(r"\d{1,3}(\.\d{1,6})?", parameters["fps"], re.ASCII)
        fps = Fraction(parameters["fps"]) if match else Fraction(0)
        if not 0 < fps <= MAX_FPS:
            raise StreamError(f"{shown}: invalid rate for the test pattern", f"The maximum is {MAX_FPS} frames per second.")
    return size, fps
