"""Inference on single images: they form a separate stream and share the pipeline with the cameras."""

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
"""The maximum number of pixels of an image."""
TIMEOUT_S = 30.0
_LOOK_S = 0.5


class TooManyRequestsError(VisionInferError):
    """Too many images already wait."""


class Requests:
    """A source of submitted images, and the sink that returns their results to the callers.

    Args:
        name: The name of the stream; begins with :data:`PREFIX`.
    """

    needs_images = False
    outputs: Sequence[Written] = ()

    def __init__(self, name: str) -> None:
        self.spec = SourceSpec(name, "video", (name,))
        self.info = StreamInfo(None, None, None, None, None, "image", False)
        self.report = ReadReport()
        self._numbers = itertools.count()
        # Callers put images, the stream's thread takes them; submit() bounds it to MAX_WAITING.
        self._submitted: SimpleQueue[tuple[int, Image, Trace]] = SimpleQueue()
        self._futures: dict[int, Future[Result]] = {}
        # Held by callers while they number and enqueue an image, and by end(), so that no image is accepted afterwards.
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def submit(self, image: Image, trace: Trace) -> Future[Result]:
        """Submit an image for inference. Cancel the future if the result is no longer needed.

        Args:
            image: The decoded image.
            trace: The trace with the decoding times.

        Raises:
            TooManyRequestsError: Too many images wait, or the model is being unloaded.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._ended.is_set():
                raise TooManyRequestsError("no more images are accepted", "Try again in a moment.")
            waiting = max(len(self._futures), self._submitted.qsize())  # canceled images remain in the queue
            if waiting >= MAX_WAITING:
                raise TooManyRequestsError(f"{waiting} images are already waiting", "Try again in a moment.")
            # The frame's index is its position in the queue, so that both are assigned under the lock.
            number = next(self._numbers)
            self._futures[number] = future
            self._submitted.put((number, image, trace))
        future.add_done_callback(lambda _: self._futures.pop(number, None))
        return future

    def frames(self) -> Iterator[Frame]:
        """Yield the images in the order of submission."""
        while not self._ended.is_set():
            try:
                number, image, trace = self._submitted.get(timeout=_LOOK_S)
            except Empty:
                continue
            future = self._futures.get(number)
            if future is not None and future.set_running_or_notify_cancel():
                yield Frame(self.spec.name, number, None, image, trace)

    def write(self, frame: Frame, result: Result | None) -> None:
        """Return the result of an image to its caller."""
        future = self._futures.pop(frame.index, None)
        if future is None:
            return
        if result is None:
            future.set_exception(VisionInferError("the image has no result", "Try again."))
        else:
            future.set_result(result)

    def end(self) -> None:
        """Accept no more images and cancel those that wait."""
        with self._lock:
            self._ended.set()
            waiting = list(self._futures.values())
        for future in waiting:
            future.cancel()

    def close(self, complete: bool) -> None:  # noqa: ARG002
        """End, and fail the images in the pipeline, which get no more results."""
        self.end()
        for future in list(self._futures.values()):
            with suppress(InvalidStateError):
                future.set_exception(VisionInferError("the image has no result", "Try again."))

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


def infer_image(requests: Requests, data: bytes, selector: Selector, clock: Clock) -> Result:
    """Run inference on one image.

    Args:
        requests: The source that takes the image.
        data: The content of a JPEG, PNG or WebP file.
        selector: The confidence and classes of the caller.
        clock: The monotonic clock.

    Raises:
        UsageError: The image is invalid or too large.
        UnavailableError: There is no result, for example because too many images wait.
    """
    trace = Trace(decode_start_ns=clock.monotonic_ns())
    try:
        rgb = decode_image(np.frombuffer(data, np.uint8), "the image", MAX_PIXELS, ("jpeg", "png", "webp"))
    except StreamError as error:
        problem = error.message.removeprefix("the image: ")
        message = f"The image {problem}" if problem.startswith("cannot") else problem
        raise UsageError(message, "Send a JPEG, PNG or WebP image.") from None
    trace.decode_end_ns = clock.monotonic_ns()
    try:
        future = requests.submit(ArrayImage(rgb), trace)
    except TooManyRequestsError as error:
        raise UnavailableError(error.message, error.hint) from None
    try:
        result = future.result(TIMEOUT_S)
    except VisionInferError as error:
        raise UnavailableError(error.message, error.hint) from None
    except (TimeoutError, CancelledError):
        future.cancel()
        raise UnavailableError("the image has no result", "Check the status of the engines.") from None
    # The lane's threshold is lower. NMS is not affected: detections below the caller's threshold suppress none above it.
    detections = result.detections
    keep = detections.scores >= np.float32(selector.confidence)
    if selector.classes is not None:
        keep &= np.isin(detections.class_ids, list(selector.classes))
    return replace(result, stream="image", detections=detections[keep])
