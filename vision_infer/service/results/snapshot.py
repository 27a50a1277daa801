"""Snapshots: the current image of a stream as JPEG."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.draw import Drawer
from vision_infer.core.clock import Clock
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.opencv import cv2
from vision_infer.core.result import Result
from vision_infer.service.errors import UnavailableError
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.views import Snapshot
from vision_infer.stream.source import Source, SourceSpec

QUALITY = 85
MAX_VIEWS = 4
"""The maximum number of main streams that are open for snapshots at the same time."""
# Limits connections to main streams; a request thread holds it while its main stream is open.
_views = threading.BoundedSemaphore(MAX_VIEWS)
_HUGE_PIXELS = 9_000_000
"""The size above which only one image at a time is converted and encoded: it takes 12 bytes a pixel."""
# Held by a thread that converts and encodes a huge image.
_huge = threading.Lock()


def next_result(hub: ResultHub, stream: str, timeout_s: float) -> tuple[Frame, Result]:
    """Return the next result of a stream with its frame.

    Raises:
        UnavailableError: No result arrived within the timeout.
    """
    future = hub.one_shot(stream)
    try:
        return future.result(timeout_s)
    except (TimeoutError, CancelledError):
        future.cancel()
        raise UnavailableError(f"{stream}: no frame within {timeout_s:g} s", "Try again.") from None


def of_result(frame: Frame, result: Result, annotated: bool, clock: Clock) -> Snapshot:
    """Return a snapshot of the frame of a result."""
    with _one_at_a_time(frame.image.size):
        rgb = frame.image.to_rgb()
        if annotated:
            Drawer()(rgb, result.detections, result.description)
        return _encode(rgb, _wall_ns(clock, frame.trace.captured_ns))


def _one_at_a_time(size: Size) -> AbstractContextManager[object]:
    return _huge if size.width * size.height > _HUGE_PIXELS else nullcontext()


class NextImage:
    """The next image of a stream with its detections, for a caller that does not wait."""

    def __init__(self, hub: ResultHub, stream: str, clock: Clock) -> None:
        self._future = hub.one_shot(stream)
        self._clock = clock

    def jpeg(self) -> bytes | None:
        """Return the image as JPEG; None if it has not arrived yet, or the service is stopping."""
        if not self._future.done() or self._future.cancelled():
            return None
        return of_result(*self._future.result(), True, self._clock).jpeg

    def cancel(self) -> None:
        """Give the image up."""
        self._future.cancel()


def of_view(
    spec: SourceSpec,
    open_source: Callable[[SourceSpec, int, threading.Event], Source],
    result: Result | None,
    timeout_s: float,
    clock: Clock,
) -> Snapshot:
    """Return a snapshot of the main stream, which is opened for it.

    Args:
        spec: The main stream.
        open_source: Opens the main stream.
        result: The newest result of the substream, drawn on the image; None to draw nothing.
        timeout_s: The time limit in seconds for opening, and again for the first frame.

    Raises:
        UnavailableError: The main stream delivers no frames, or too many are open.
    """
    if not _views.acquire(timeout=1.0):
        raise UnavailableError(f"{spec.name}: {MAX_VIEWS} main streams are already open for snapshots", "Try again.")
    stopping = threading.Event()
    live = spec.live
    hurried = replace(
        live, open_timeout_s=min(live.open_timeout_s, timeout_s), stall_timeout_s=min(live.stall_timeout_s, timeout_s)
    )
    try:
        with open_source(replace(spec, live=hurried), 1, stopping) as source, _stopped_after(timeout_s, stopping):
            frame = next(source.frames(), None)
            if frame is None:
                raise UnavailableError(f"{spec.name}: the main stream delivers no frames", "Check the stream's 'view' URL.")
            image, captured_ns = frame.image, frame.trace.captured_ns
    except StreamError as error:
        raise UnavailableError(error.message, error.hint) from None
    finally:
        stopping.set()
        _views.release()
    with _one_at_a_time(image.size):
        rgb = image.to_rgb()
        if result is not None:
            Drawer()(rgb, result.detections.scaled(result.size, Size(rgb.shape[1], rgb.shape[0])), result.description)
        return _encode(rgb, _wall_ns(clock, captured_ns))


@contextmanager
def _stopped_after(timeout_s: float, stopping: threading.Event) -> Iterator[None]:
    timer = threading.Timer(timeout_s, stopping.set)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _wall_ns(clock: Clock, monotonic_ns: int) -> int:
    return clock.wall_ns() - (clock.monotonic_ns() - monotonic_ns)


def _encode(rgb: NDArray[np.uint8], captured_wall_ns: int) -> Snapshot:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise UnavailableError("the image cannot be encoded as JPEG", "Please report this.")
    return Snapshot(data.tobytes(), captured_wall_ns, rgb.shape[1], rgb.shape[0])
