"""The frames and requests that get a trace, and what their spans need. Nothing here needs the packages of OpenTelemetry."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from zlib import crc32

from vision_infer.core.clock import Clock
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.core.trace import Trace
from vision_infer.sink.sink import Written

Attribute = str | int | float | bool

_STEP = 0x9E3779B1
"""2^32 divided by the golden ratio: the chosen numbers are spread evenly, and follow no period such as that of key frames."""
_MASK = 0xFFFFFFFF
_MAX_NAMES = 10_000


def new_id(bits: int) -> int:
    """Return a random number that is not 0."""
    return random.getrandbits(bits) or 1


class Sampling:
    """Chooses a fraction of the frames of each stream, by name and frame number only.

    Args:
        ratio: The fraction, 0–1.
    """

    def __init__(self, ratio: float) -> None:
        self._limit = round(ratio * 2**32)
        self._phases: dict[str, int] = {}

    def takes(self, stream: str, number: int) -> bool:
        """Return whether a frame is chosen."""
        phase = self._phases.get(stream)
        if phase is None:
            if len(self._phases) >= _MAX_NAMES:
                self._phases.clear()
            phase = self._phases[stream] = crc32(stream.encode("utf-8", "backslashreplace"))
        return (number * _STEP + phase) & _MASK < self._limit


@dataclass(slots=True)
class TracedRequest:
    """An HTTP request with a trace. Times are monotonic, nanoseconds."""

    trace_id: int
    span_id: int
    parent_id: int
    """The span of the client; 0 if the request begins the trace."""
    sampled: bool
    """Whether spans are sent; log lines contain the ids in any case."""
    state: str
    """The header ``tracestate``, passed on unmodified."""
    start_ns: int
    end_ns: int = 0
    name: str = ""
    attributes: dict[str, Attribute] = field(default_factory=dict)
    failed: bool = False
    frames: list[TracedFrame] = field(default_factory=list)
    """The images that were inferred for the request."""

    def infer(self, trace: Trace, result: Result, now_ns: int) -> None:
        """Add an image that was inferred for the request.

        Args:
            trace: The times of the image.
            result: Its result.
            now_ns: The time at which the result arrived, monotonic.
        """
        if self.sampled:
            self.frames.append(TracedFrame(trace, now_ns, attributes_of(trace, result), self.trace_id, new_id(64), self.span_id))


TRACED_REQUEST: ContextVar[TracedRequest | None] = ContextVar("traced_request", default=None)
"""The request that the current task, or a thread on its behalf, handles; None if it has no trace."""
TRACE_HEADERS: ContextVar[Mapping[str, str] | None] = ContextVar("trace_headers", default=None)
"""The headers of the client's trace, for a request that another process answers and traces."""


@dataclass(slots=True)
class TracedFrame:
    """A frame with a trace, without its image and detections. Times are monotonic, nanoseconds."""

    trace: Trace
    written_ns: int
    """The time at which all sinks had the result."""
    attributes: dict[str, Attribute]
    trace_id: int
    span_id: int
    parent_id: int = 0
    """The span of the request; 0 for a frame of a stream."""


def attributes_of(trace: Trace, result: Result) -> dict[str, Attribute]:
    """Return the attributes of a frame's span."""
    attributes: dict[str, Attribute] = {
        "vision_infer.stream": result.stream,
        "vision_infer.frame": result.frame,
        "vision_infer.model": result.model,
        "vision_infer.engine": result.engine,
        "vision_infer.batch_size": trace.batch,
        "vision_infer.detections": len(result.detections),
        "vision_infer.queue_ms": result.latency.queue_ns / 1e6,
    }
    if result.live is not None:
        attributes["vision_infer.age_ms"] = result.live.age_ns / 1e6
        attributes["vision_infer.clock"] = result.live.clock
    if result.gated:
        attributes["vision_infer.gated"] = True
    return attributes


class FrameTraces:
    """A sink of all streams that keeps the times of chosen frames. It must be the last one, to see how long the others take.

    Args:
        ratio: The fraction of frames, 0–1.
        offer: Takes a chosen frame. It must be quick.
        clock: The monotonic clock.
    """

    needs_images = False
    outputs: Sequence[Written] = ()

    def __init__(self, ratio: float, offer: Callable[[TracedFrame], None], clock: Clock) -> None:
        self._takes = Sampling(ratio).takes
        self._offer = offer
        self._now = clock.monotonic_ns
        self._last: dict[str, Trace] = {}

    def write(self, frame: Frame, result: Result | None) -> None:
        """Keep the times of a frame if it is chosen."""
        if result is None or not self._takes(result.stream, frame.index):
            return
        trace = frame.trace
        if self._last.get(result.stream) is trace:  # the last events of a stream come with its last frame again
            return
        if len(self._last) >= _MAX_NAMES:
            self._last.clear()
        self._last[result.stream] = trace
        self._offer(TracedFrame(trace, self._now(), attributes_of(trace, result), new_id(128), new_id(64)))

    def close(self, complete: bool) -> None:
        """Do nothing: the sender is closed on its own."""
