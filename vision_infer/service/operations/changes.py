"""Distribution of changes while the service runs: states of streams, degradation, engines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from vision_infer.pipeline.status import StreamEvent
from vision_infer.service.events import ServiceEvent
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.results.sinks import SinkSet

CHANGES_KEPT = 1024


class Changes:
    """Keeps the latest changes and passes each to the hub, the sinks and the log. Any thread may publish and read.

    Args:
        on_stream: Called with each change of a stream's state; it must return quickly.
    """

    def __init__(self, hub: ResultHub, sink_set: SinkSet | None, on_stream: Callable[[StreamEvent], None] | None) -> None:
        self._hub = hub
        self._sink_set = sink_set
        self._on_stream = on_stream
        # A bounded queue; append and copy are atomic in CPython, so that it needs no lock.
        self._last: deque[ServiceEvent] = deque(maxlen=CHANGES_KEPT)

    def last(self) -> list[ServiceEvent]:
        """Return the kept changes, oldest first."""
        return list(self._last)

    def publish(self, event: ServiceEvent) -> None:
        """Distribute a change."""
        self._last.append(event)
        self._hub.publish(event)
        if self._sink_set is not None:
            self._sink_set.publish(event)
        if isinstance(event, StreamEvent) and self._on_stream is not None:
            self._on_stream(event)
