"""What changes while the service runs: streams, engines, who gives way. It is kept for a while, and told to all who ask."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from vision_infer.pipeline.status import StreamEvent
from vision_infer.service.operations.engine_event import EngineEvent
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.results.sinks import SinkSet
from vision_infer.service.streams.degrading import DegradeEvent

CHANGES_KEPT = 1024


class Changes:
    """The last changes. Any thread may tell and read.

    Args:
        hub: its readers are told.
        sink_set: its sinks are told.
        on_stream: told each change of a stream's state; it must be quick.
    """

    def __init__(self, hub: ResultHub, sink_set: SinkSet | None, on_stream: Callable[[StreamEvent], None] | None) -> None:
        self._hub = hub
        self._sink_set = sink_set
        self._on_stream = on_stream
        self._last: deque[StreamEvent | EngineEvent | DegradeEvent] = deque(maxlen=CHANGES_KEPT)

    def last(self) -> list[StreamEvent | EngineEvent | DegradeEvent]:
        """Those that are kept, the newest last."""
        return list(self._last)

    def tell(self, event: StreamEvent | EngineEvent | DegradeEvent) -> None:
        """Something has changed."""
        self._last.append(event)
        self._hub.tell(event)
        if self._sink_set is not None:
            self._sink_set.tell(event)
        if isinstance(event, StreamEvent) and self._on_stream is not None:
            self._on_stream(event)
