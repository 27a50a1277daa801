"""A picture of a stream as it is now, as JPEG."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.draw import Drawer
from vision_infer.core.clock import Clock
from vision_infer.core.detections import Detections
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.result import Result
from vision_infer.service.errors import UnavailableError
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.views import Snapshot
from vision_infer.stream.source import Source, SourceSpec

QUALITY = 85
MAX_VIEWS = 4
"""main streams that are open for snapshots at the same time"""
_views = threading.BoundedSemaphore(MAX_VIEWS)


def next_result(hub: ResultHub, stream: str, timeout_s: float) -> tuple[Frame, Result]:
    """The next result of a stream, with its frame.

    Raises:
        UnavailableError: none came in this time.
    """
    future = hub.one_shot(stream)
    try:
        return future.result(timeout_s)
    except (TimeoutError, CancelledError):
        future.cancel()
        raise UnavailableError(f"{stream}: no picture within {timeout_s:g} s", "try again") from None


def of_result(frame: Frame, result: Result, annotated: bool, clock: Clock) -> Snapshot:
    """The picture of a result."""
    rgb = frame.image.to_rgb()
    if annotated:
        Drawer()(rgb, result.detections, result.description)
    return _encode(rgb, _wall_ns(clock, frame.trace.captured_ns))


def of_view(
    spec: SourceSpec,
    open_source: Callable[[SourceSpec, int, threading.Event], Source],
    found: Result | None,
    timeout_s: float,
    clock: Clock,
) -> Snapshot:
    """A picture of the main stream, which is opened for it.

    Args:
        spec: the main stream.
        open_source: opens it.
        found: the newest result of the substream, to be drawn on it; None: nothing is drawn.
        timeout_s: how long its opening, and then its first picture, may take.

    Raises:
        UnavailableError: the main stream gives no picture, or too many are open already.
    """
    if not _views.acquire(timeout=1.0):
        raise UnavailableError(f"{spec.name}: {MAX_VIEWS} main streams are open for snapshots already", "try again")
    stopping = threading.Event()
    live = spec.live
    hurried = replace(
        live, open_timeout_s=min(live.open_timeout_s, timeout_s), stall_timeout_s=min(live.stall_timeout_s, timeout_s)
    )
    try:
        with open_source(replace(spec, live=hurried), 1, stopping) as source, _stopped_after(timeout_s, stopping):
            frame = next(source.frames(), None)
            if frame is None:
                raise UnavailableError(f"{spec.name}: its main stream gives no picture", "check the stream's 'view' URL")
            rgb = frame.image.to_rgb()
            captured_ns = frame.trace.captured_ns
    except StreamError as error:
        raise UnavailableError(error.message, error.hint) from None
    finally:
        stopping.set()
        _views.release()
    if found is not None:
        Drawer()(rgb, scaled(found.detections, found.size, Size(rgb.shape[1], rgb.shape[0])), found.description)
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


def scaled(detections: Detections, source: Size, target: Size) -> Detections:
    """The same detections in a picture of another size."""
    ratios = np.array([target.width / source.width, target.height / source.height] * 2, np.float32)
    return replace(detections, boxes=detections.boxes * ratios)


def _wall_ns(clock: Clock, monotonic_ns: int) -> int:
    return clock.wall_ns() - (clock.monotonic_ns() - monotonic_ns)


def _encode(rgb: NDArray[np.uint8], captured_wall_ns: int) -> Snapshot:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise UnavailableError("the picture cannot be written as JPEG", "please report this")
    return Snapshot(data.tobytes(), captured_wall_ns, rgb.shape[1], rgb.shape[0])
