"""A running service in this process, and what comes out of it: results with their true ages, and changes of state."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from vision_infer.config.serve import Reconnect, ServeSettings, StreamSettings
from vision_infer.core import time_code
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.pipeline.status import StreamEvent, StreamState, StreamStatus
from vision_infer.service.service import Service
from vision_infer.sink.sink import Written
from vision_infer.stream.find import open_source

LIMIT_S = 60.0
"""how long anything may take, on a busy machine"""
SHORT = Reconnect(min_s=0.1, max_s=0.5, refused_s=0.5)
_LOOK_S = 0.02
_MAX_SEEN = 100_000

ENGINE = "onnxruntime-cpu-fp32"
"""one that is named is not tried against others, which would cost the tests their cores"""


def camera(url: str, **more: Any) -> StreamSettings:
    """A camera whose faults are noticed soon, and that is asked again soon."""
    return StreamSettings(**{"detect": url, "open_timeout_s": 2.0, "stall_timeout_s": 2.0, "reconnect": SHORT, **more})


@dataclass(frozen=True)
class Seen:
    """A result that came out."""

    at_ns: int
    """when, monotonic"""
    result: Result
    captured_ns: int
    """as the service has it, monotonic"""

    @property
    def true_age_ms(self) -> int | None:
        """How old the picture was, by the time code that the network read; None where it read none."""
        found = self.result.detections.class_ids
        return time_code.since_ms(int(found[0]), self.at_ns) if len(found) else None

    @property
    def age_ms(self) -> float:
        """How old it was, as the service says."""
        assert self.result.live is not None
        return self.result.live.age_ns / 1e6

    @property
    def after_decoding_ms(self) -> float:
        """How long it took from the decoder to here: waiting for the engine, and the engine."""
        latency = self.result.latency
        return (latency.total_ns - latency.decode_ns) / 1e6


class _Collector:
    """A sink that keeps the results."""

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
    """A service with these streams, until the context ends.

    Args:
        streams: by name; they are in the file of settings.
        settings: more of its settings. The model is ``clock``.
        open_stream: opens sources.
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
        """Wait until something is so; the test fails where it does not become so."""
        deadline = time.monotonic() + limit_s
        looked = threading.Event()
        while not condition():
            assert self.service.error is None, self.service.error
            assert time.monotonic() < deadline, f"not within {limit_s} s: {what}; {self.told()}"
            looked.wait(_LOOK_S)

    def told(self) -> list[str]:
        """The last changes of state, in words."""
        return [f"{event.stream}: {event.state.value}: {event.reason}" for event in self.events[-12:]]

    def seen(self, stream: str, since_ns: int = 0, until_ns: int = 1 << 62) -> list[Seen]:
        """The results of a stream that came in a time."""
        kept = self._collector.seen
        first = len(kept)
        while first and kept[first - 1].at_ns >= since_ns:
            first -= 1
        return [seen for seen in kept[first:] if seen.result.stream == stream and seen.at_ns < until_ns]

    def wait_for_results(self, stream: str, count: int, limit_s: float = LIMIT_S) -> list[Seen]:
        """Wait until so many more results of a stream have come; those."""
        since = time.monotonic_ns()
        self.wait(lambda: len(self.seen(stream, since)) >= count, f"{count} results of {stream}", limit_s)
        return self.seen(stream, since)

    def clear(self) -> None:
        """Forget what came so far: whoever measures memory does not want it kept."""
        self.events.clear()
        self._collector.seen.clear()

    def status(self, stream: str) -> StreamStatus:
        """How a stream is."""
        status = self.service.stream(stream).status
        assert status is not None
        return status

    def states(self, stream: str, since_ns: int = 0) -> list[StreamState]:
        """The states that a stream came into since then."""
        return [event.state for event in self.events_of(stream, since_ns)]

    def events_of(self, stream: str, since_ns: int = 0) -> list[StreamEvent]:
        """A stream's changes of state since then."""
        return [event for event in self.events if event.stream == stream and event.at_ns >= since_ns]


def gaps(seen: list[Seen]) -> int:
    """How many frames of one stream gave no result between those that did."""
    return sum(later.result.frame - earlier.result.frame - 1 for earlier, later in itertools.pairwise(seen))


def longest_pause_s(seen: list[Seen], since_ns: int, until_ns: int) -> float:
    """The longest time without a result, the edges of the window counted."""
    times = [since_ns, *(one.at_ns for one in seen), until_ns]
    return max(later - earlier for earlier, later in itertools.pairwise(times)) / 1e9
