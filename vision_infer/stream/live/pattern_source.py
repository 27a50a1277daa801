"""The built-in camera, ``test://``: a ball that bounces, and in each picture the time code of the moment it was drawn.

``test://?size=1280x720&fps=15`` chooses its size and rate. With the model ``clock`` the class number of a result is the moment of
its picture, so that nothing else is needed to see how old results are.
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
from vision_infer.stream.time_code import draw

SCHEME = "test://"
DEFAULT_SIZE = Size(640, 360)
DEFAULT_FPS = Fraction(30)
MAX_FPS = 240
_HINT = "write test:// or, for instance, test://?size=640x360&fps=30"
_SECOND = 1_000_000_000
_ACROSS_S, _DOWN_S = 3.1, 1.9
"""how long the ball takes from side to side, and from top to bottom"""


class PatternSource:
    """A live source that draws its pictures itself, on the beat of a clock.

    A picture is drawn when its turn comes and somebody asks for it: as with a camera, turns that pass meanwhile are gone.

    Args:
        spec: its path is the ``test://`` URL.
        stopping: set it, and the frames end at once.
        clock: paces the frames; its monotonic time is what the time code shows.

    Raises:
        StreamError: the URL asks for something that is not there.
    """

    def __init__(self, spec: SourceSpec, stopping: threading.Event, clock: Clock = SYSTEM_CLOCK) -> None:
        self.spec = spec
        self.report = ReadReport()
        self._stopping = stopping
        self._clock = clock
        self._size, self._fps = _asked_for(spec.paths[0], spec.read.max_pixels)
        self._scene = _Scene(self._size)
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
        """Show the pictures to it too; there are no packets."""
        self._tap = tap
        tap.opened(VideoFormat("rawvideo", size=self._size))

    def frames(self) -> Iterator[Frame]:
        """A frame for each turn, until it is told to stop."""
        begin = self._clock.monotonic_ns()
        turn = index = 0
        while not self._stopping.is_set():
            wait_ns = begin + round(turn * _SECOND / self._fps) - self._clock.monotonic_ns()
            if wait_ns > 0:
                self._stopping.wait(wait_ns / _SECOND)
                continue  # the wait may have been cut short, or the clock be another than the system's
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


class _Scene:
    """A wall and a ball.

    Args:
        size: of the pictures.
    """

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
        self._room = size.width - self._side, size.height - self._side

    def at(self, seconds: float) -> NDArray[np.uint8]:
        """The picture at a time, uint8 [H, W, 3] RGB, a new one."""
        image = self._wall.copy()
        left = round(_to_and_fro(seconds / _ACROSS_S) * self._room[0])
        top = round(_to_and_fro(seconds / _DOWN_S) * self._room[1])
        np.copyto(image[top : top + self._side, left : left + self._side], self._ball, where=self._inside)
        return image


def _to_and_fro(value: float) -> float:
    """From 0 to 1 and back, over and over."""
    return 1 - abs(value % 2 - 1)


def _asked_for(url: str, max_pixels: int) -> tuple[Size, Fraction]:
    """The size and rate that a URL names.

    Raises:
        StreamError: it names something else, or what cannot be.
    """
    shown = redact(url)
    parts = urlsplit(url)
    wanted = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [redact(name) for name in wanted if name not in ("size", "fps")]
    if unknown or parts.fragment or parts.path not in ("", "/"):
        raise StreamError(f"{shown}: the test pattern has no {unknown[0] if unknown else 'path'}", _HINT)
    size, fps = DEFAULT_SIZE, DEFAULT_FPS
    if "size" in wanted:
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", wanted["size"], re.ASCII)
        size = Size(int(match[1]), int(match[2])) if match else Size(1, 1)
        if size.width < MIN_WIDTH or size.height < MIN_HEIGHT or size.width * size.height > max_pixels:
            hint = f"size is WIDTHxHEIGHT, from {MIN_WIDTH}x{MIN_HEIGHT} to {max_pixels} pixels in all"
            raise StreamError(f"{shown}: no size for a test pattern", hint)
    if "fps" in wanted:
        match = re.fullmatch(r"\d{1,3}(\.\d{1,6})?", wanted["fps"], re.ASCII)
        fps = Fraction(wanted["fps"]) if match else Fraction(0)
        if not 0 < fps <= MAX_FPS:
            raise StreamError(f"{shown}: no rate for a test pattern", f"fps is a number of frames per second, to {MAX_FPS}")
    return size, fps
