"""Inference on single images: they form a separate stream and share the pipeline with the cameras."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.select import Selector
from vision_infer.core.clock import Clock
from vision_infer.core.errors import StreamError, UsageError, VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.image import Image
from vision_infer.core.result import Result
from vision_infer.core.trace import Trace
from vision_infer.service.errors import DeadlineError, TooManyRequestsError, UnavailableError
from vision_infer.sink.otlp.traced import TRACED_REQUEST
from vision_infer.sink.sink import Written
from vision_infer.stream.files.images import decode_image
from vision_infer.stream.image import ArrayImage, TensorImage
from vision_infer.stream.source import ReadReport, SourceSpec, StreamInfo

PREFIX = "~"
"""The names of these streams begin with it; no stream of the user has such a name."""
MAX_WAITING = 64
MAX_PIXELS = 50_000_000
"""The maximum number of pixels of an image."""
TIMEOUT_S = 30.0
_LOOK_S = 0.5


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


def infer_image(requests: Requests, data: bytes, selector: Selector, clock: Clock, deadline_ns: int | None = None) -> Result:
    """Run inference on one image.

    Args:
        requests: The source that takes the image.
        data: The content of a JPEG, PNG or WebP file.
        selector: The confidence and classes of the caller.
        clock: The monotonic clock.
        deadline_ns: The monotonic time until which the caller needs the result; None: there is a general limit.

    Raises:
        UsageError: The image is invalid or too large.
        TooManyRequestsError: Too many images wait, or the model is being unloaded.
        DeadlineError: The deadline has passed.
        UnavailableError: There is no result.
    """
    trace = Trace(decode_start_ns=clock.monotonic_ns())
    try:
        rgb = decode_image(np.frombuffer(data, np.uint8), "the image", MAX_PIXELS, ("jpeg", "png", "webp"))
    except StreamError as error:
        problem = error.message.removeprefix("the image: ")
        message = f"The image {problem}" if problem.startswith("cannot") else problem
        raise UsageError(message, "Send a JPEG, PNG or WebP image.") from None
    trace.decode_end_ns = clock.monotonic_ns()
    result = _result(requests.submit(ArrayImage(rgb), trace), clock, deadline_ns)
    # The lane's threshold is lower. NMS is not affected: detections below the caller's threshold suppress none above it.
    detections = result.detections
    keep = detections.scores >= np.float32(selector.confidence)
    if selector.classes is not None:
        keep &= np.isin(detections.class_ids, list(selector.classes))
    return _traced(trace, replace(result, stream="image", detections=detections[keep]), clock)


def infer_tensors(
    requests: Requests, images: NDArray[np.uint8], clock: Clock, deadline_ns: int | None = None
) -> Mapping[str, NDArray[Any]]:
    """Run the deployment graph on images that have the size of its input.

    Each image takes a slot of a batch like a frame of a camera, so that a batch can also contain images of other callers.

    Args:
        requests: The source that takes the images.
        images: uint8 [N, H, W, 3] RGB.
        clock: The monotonic clock.
        deadline_ns: See :func:`infer_image`.

    Returns:
        The outputs by name, for the N images.

    Raises:
        TooManyRequestsError: Too many images wait, or the model is being unloaded.
        DeadlineError: The deadline has passed.
        UnavailableError: There is no result.
    """
    now_ns = clock.monotonic_ns()
    tensors = [TensorImage(image) for image in images]
    traces = [Trace(now_ns, now_ns) for _ in tensors]
    futures: list[Future[Result]] = []
    try:
        for tensor, trace in zip(tensors, traces, strict=True):
            futures.append(requests.submit(tensor, trace))
        for future, trace in zip(futures, traces, strict=True):
            _traced(trace, replace(_result(future, clock, deadline_ns), stream="image"), clock)
    finally:
        for future in futures:
            future.cancel()
    return {name: np.stack([tensor.outputs[name] for tensor in tensors]) for name in tensors[0].outputs}


def _traced(trace: Trace, result: Result, clock: Clock) -> Result:
    """Add a result to the OpenTelemetry trace of the request, if it has one; return it."""
    request = TRACED_REQUEST.get()
    if request is not None:
        request.infer(trace, result, clock.monotonic_ns())
    return result


def _result(future: Future[Result], clock: Clock, deadline_ns: int | None) -> Result:
    limit_s = TIMEOUT_S if deadline_ns is None else min(TIMEOUT_S, max(0.0, (deadline_ns - clock.monotonic_ns()) / 1e9))
    try:
        return future.result(limit_s)
    except UnavailableError:
        raise
    except VisionInferError as error:
        raise UnavailableError(error.message, error.hint) from None
    except (TimeoutError, CancelledError):
        future.cancel()
    if limit_s < TIMEOUT_S and deadline_ns is not None and clock.monotonic_ns() >= deadline_ns:
        raise DeadlineError("the deadline has passed before there was a result", "Allow more time, or send fewer requests.")
    raise UnavailableError("the image has no result", "Check the status of the engines.")
