"""A service in this process with its output: results with their true ages, and changes of state."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.config.service.reconnect import Reconnect
from vision_infer.core import time_code
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.pipeline.status import StreamEvent, StreamState, StreamStatus
from vision_infer.service.service import Service
from vision_infer.sink.sink import Written
from vision_infer.stream.find import open_source

LIMIT_S = 60.0
"""The time limit for any step on a busy machine, in seconds."""
SHORT = Reconnect(min_s=0.1, max_s=0.5, refused_s=0.5)
_LOOK_S = 0.02
_MAX_SEEN = 100_000

ENGINE = "onnxruntime-cpu-fp32"
"""A named engine avoids autotuning, which would take the cores from the tests."""


def camera(url: str, **more: Any) -> StreamSettings:
    """Return the settings of a camera with short timeouts and retry intervals."""
    return StreamSettings(**{"detect": url, "open_timeout_s": 2.0, "stall_timeout_s": 2.0, "reconnect": SHORT, **more})


@dataclass(frozen=True)
class Seen:
    """A received result."""

    at_ns: int
    """The time of arrival, monotonic nanoseconds."""
    result: Result
    captured_ns: int
    """The capture time according to the service, monotonic nanoseconds."""

    @property
    def frame(self) -> int:
        """The number of the frame."""
        return self.result.frame

    @property
    def true_age_ms(self) -> int | None:
        """The age of the frame by the time code that the model read; None if it read none."""
        found = self.result.detections.class_ids
        return time_code.since_ms(int(found[0]), self.at_ns) if len(found) else None

    @property
    def age_ms(self) -> float:
        """The age of the frame according to the service."""
        assert self.result.live is not None
        return self.result.live.age_ns / 1e6

    @property
    def after_decoding_ms(self) -> float:
        """The time from the decoder to the sink: waiting for the engine, and inference."""
        latency = self.result.latency
        return (latency.total_ns - latency.decode_ns) / 1e6


class _Collector:
    """A sink that stores the results."""

    needs_images = False
    outputs: Sequence[Written] = ()

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def write(self, frame: Frame, result: Result | None) -> None:
        if result is not None:
            assert len(self.seen) < _MAX_SEEN
            self.seen.append(Seen(time.monotonic_ns(), result, frame.trace.captured_ns))

    def close(self, complete: bool) -> None:
        pass


class Running:
    """Runs a service with these streams until the context ends.

    Args:
        streams: The streams of the configuration file by name.
        settings: Additional settings. The model is ``clock``.
        open_stream: Opens sources.
    """

    def __init__(self, streams: dict[str, StreamSettings], open_stream: Any = open_source, **settings: Any) -> None:
        self.events: list[StreamEvent] = []
        self._collector = _Collector()
        whole = ServeSettings(**{"model": "clock", "engine": ENGINE, "workers": 2, "streams": streams, **settings})
        self.service = Service(whole, None, [self._collector], self.events.append, open_stream=open_stream)

    def __enter__(self) -> Running:
        self.service.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.service.close()

    def wait(self, condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
        """Wait until a condition is met; fail the test after the time limit."""
        deadline = time.monotonic() + limit_s
        looked = threading.Event()
        while not condition():
            assert self.service.error is None, self.service.error
            assert time.monotonic() < deadline, f"not within {limit_s} s: {what}; {self.last_events()}"
            looked.wait(_LOOK_S)

    def last_events(self) -> list[str]:
        """Return the latest changes of state as text."""
        return [f"{event.stream}: {event.state.value}: {event.reason}" for event in self.events[-12:]]

    def seen(self, stream: str, since_ns: int = 0, until_ns: int = 1 << 62) -> list[Seen]:
        """Return the results of a stream in a period of time."""
        kept = self._collector.seen
        first = len(kept)
        while first and kept[first - 1].at_ns >= since_ns:
            first -= 1
        return [seen for seen in kept[first:] if seen.result.stream == stream and seen.at_ns < until_ns]

    def wait_for_results(self, stream: str, count: int, limit_s: float = LIMIT_S) -> list[Seen]:
        """Wait for a number of further results of a stream and return them."""
        since = time.monotonic_ns()
        self.wait(lambda: len(self.seen(stream, since)) >= count, f"{count} results of {stream}", limit_s)
        return self.seen(stream, since)

    def clear(self) -> None:
        """Delete the stored results and events, for measurements of memory."""
        self.events.clear()
        self._collector.seen.clear()

    def status(self, stream: str) -> StreamStatus:
        """Return the status of a stream."""
        status = self.service.stream(stream).status
        assert status is not None
        return status

    def states(self, stream: str, since_ns: int = 0) -> list[StreamState]:
        """Return the states that a stream entered since a time."""
        return [event.state for event in self.events_of(stream, since_ns)]

    def events_of(self, stream: str, since_ns: int = 0) -> list[StreamEvent]:
        """Return a stream's changes of state since a time."""
        return [event for event in self.events if event.stream == stream and event.at_ns >= since_ns]


class _Numbered(Protocol):
    @property
    def frame(self) -> int: ...


def gaps(seen: Sequence[_Numbered]) -> int:
    """Return the number of frames without a result between the results of one stream."""
    return sum(later.frame - earlier.frame - 1 for earlier, later in itertools.pairwise(seen))


def longest_pause_s(seen: list[Seen], since_ns: int, until_ns: int) -> float:
    """Return the longest time without a result, including the edges of the window."""
    times = [since_ns, *(one.at_ns for one in seen), until_ns]
    return max(later - earlier for earlier, later in itertools.pairwise(times)) / 1e9
