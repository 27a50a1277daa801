"""Results for whoever runs the pipeline from Python: a bounded channel that pushes back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from vision_infer.core.frame import Frame
from vision_infer.core.result import Result

CAPACITY = 64


class ResultChannel:
    """A sink that hands results to another thread; when that is slow the streams wait, and nothing is lost."""

    needs_pictures = False

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._results: deque[Result] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Wait for a place, then put the result there; results for a closed channel go nowhere."""
        if result is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: len(self._results) < self._capacity or self._closed)
            if not self._closed:
                self._results.append(result)
                self._changed.notify_all()

    def finish(self) -> None:
        """All streams have ended: the reader gets what is left, then the end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def close(self, complete: bool) -> None:  # noqa: ARG002
        """As :meth:`finish`."""
        self.finish()

    def __iter__(self) -> Iterator[Result]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._results or self._closed)
                if not self._results:
                    return
                result = self._results.popleft()
                self._changed.notify_all()
            yield result
