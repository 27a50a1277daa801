"""Single pictures that are sent to be inferred. They go the way of all frames: a stream of their own, beside the cameras'."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from types import TracebackType

import numpy as np

from vision_infer.analyze.select import Selector
from vision_infer.core.clock import Clock
from vision_infer.core.errors import StreamError, UsageError, VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.image import Image
from vision_infer.core.result import Result
from vision_infer.core.trace import Trace
from vision_infer.service.errors import UnavailableError
from vision_infer.sink.sink import Written
from vision_infer.stream.files.images import decode_image
from vision_infer.stream.image import ArrayImage
from vision_infer.stream.source import ReadReport, SourceSpec, StreamInfo

PREFIX = "~"
"""The names of these streams begin with it; no stream of the user has such a name."""
MAX_WAITING = 64
MAX_PIXELS = 50_000_000
"""of a single picture that is sent"""
TIMEOUT_S = 30.0
_LOOK_S = 0.5


class TooManyRequestsError(VisionInferError):
    """So many pictures wait that another one would wait too long."""


class Requests:
    """A source of frames: pictures, as they are asked about; a sink where their results come out.

    Args:
        name: of its stream; begins with :data:`PREFIX`.
    """

    needs_images = False
    outputs: Sequence[Written] = ()

    def __init__(self, name: str) -> None:
        self.spec = SourceSpec(name, "video", (name,))
        self.info = StreamInfo(None, None, None, None, None, "pictures", False)
        self.report = ReadReport()
        self._numbers = itertools.count()
        self._asked: SimpleQueue[tuple[int, Image, Trace]] = SimpleQueue()
        self._answers: dict[int, Future[Result]] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def ask(self, image: Image, trace: Trace) -> Future[Result]:
        """Let a picture be inferred; cancel what is not waited for any more.

        Args:
            picture: decoded.
            trace: when it was.

        Raises:
            TooManyRequestsError: too many wait already, or no more are taken.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._ended.is_set():
                raise TooManyRequestsError("no more pictures are taken", "try again in a moment")
            waiting = max(len(self._answers), self._asked.qsize())  # those that are given up wait in the queue
            if waiting >= MAX_WAITING:
                raise TooManyRequestsError(f"{waiting} pictures wait already", "try again in a moment")
            # The frame's index is its place in the queue: both are taken under the lock.
            number = next(self._numbers)
            self._answers[number] = future
            self._asked.put((number, image, trace))
        future.add_done_callback(lambda _: self._answers.pop(number, None))
        return future

    def frames(self) -> Iterator[Frame]:
        """The pictures in the order in which they were asked about."""
        while not self._ended.is_set():
            try:
                number, image, trace = self._asked.get(timeout=_LOOK_S)
            except Empty:
                continue
            future = self._answers.get(number)
            if future is not None and future.set_running_or_notify_cancel():
                yield Frame(self.spec.name, number, None, image, trace)

    def write(self, frame: Frame, result: Result | None) -> None:
        """Hand the result of an image to the caller that sent it."""
        future = self._answers.pop(frame.index, None)
        if future is None:
            return
        if result is None:
            future.set_exception(VisionInferError("the picture gave no result", "try again"))
        else:
            future.set_result(result)

    def end(self) -> None:
        """Take no more pictures; those that wait are not answered."""
        with self._lock:
            self._ended.set()
            waiting = list(self._answers.values())
        for future in waiting:
            future.cancel()

    def close(self, complete: bool) -> None:  # noqa: ARG002
        """As :meth:`end`; no more results come, which is told to those that wait for one."""
        self.end()
        for future in list(self._answers.values()):
            with suppress(InvalidStateError):
                future.set_exception(VisionInferError("the picture gave no result", "try again"))

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


def infer_image(requests: Requests, data: bytes, selector: Selector, clock: Clock) -> Result:
    """The result of one picture.

    Args:
        requests: where it goes.
        data: a JPEG, PNG or WebP file.
        selector: its confidence and classes count.
        clock: monotonic.

    Raises:
        UsageError: it is no picture, or too large.
        UnavailableError: it gives no result now.
    """
    trace = Trace(decode_start_ns=clock.monotonic_ns())
    try:
        rgb = decode_image(np.frombuffer(data, np.uint8), "the picture", MAX_PIXELS)
    except StreamError as error:
        raise UsageError(error.message, "send a JPEG, PNG or WebP picture") from None
    trace.decode_end_ns = clock.monotonic_ns()
    try:
        future = requests.ask(ArrayImage(rgb), trace)
    except TooManyRequestsError as error:
        raise UnavailableError(error.message, error.hint) from None
    try:
        result = future.result(TIMEOUT_S)
    except VisionInferError as error:
        raise UnavailableError(error.message, error.hint) from None
    except (TimeoutError, CancelledError):
        future.cancel()
        raise UnavailableError("the picture gave no result", "see the state of the engines") from None
    # It was inferred with a low threshold; NMS does not mind: what is below the caller's suppresses nothing above it.
    found = result.detections
    keep = found.scores >= np.float32(selector.confidence)
    if selector.classes is not None:
        keep &= np.isin(found.class_ids, list(selector.classes))
    return replace(result, stream="picture", detections=found[keep])
