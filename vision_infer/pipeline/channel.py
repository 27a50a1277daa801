"""Bounded ways from thread to thread.

A window and a channel are made of ``queue.SimpleQueue``, which is written in C: on the way of every frame, the standard library's
``Semaphore`` and ``Queue`` cost several times as much.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.sink import Written

T = TypeVar("T")
CAPACITY = 64


class Window:
    """So many credits: whoever takes one more waits until one is given back."""

    __slots__ = ("_credits", "acquire")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a window has at least 1 place, got {size}")
        self._credits: SimpleQueue[None] = SimpleQueue()
        for _ in range(size):
            self._credits.put(None)
        self.acquire = self._credits.get
        """take a credit; waits for one"""

    def try_acquire(self) -> bool:
        """Take a credit if there is one now."""
        try:
            self._credits.get_nowait()
        except Empty:
            return False
        return True

    def release(self) -> None:
        """Give a credit back."""
        self._credits.put(None)


class Channel(Generic[T]):
    """First in, first out, between any number of threads; putting waits while ``capacity`` items are inside."""

    __slots__ = ("_items", "_places")

    def __init__(self, capacity: int) -> None:
        self._items: SimpleQueue[T] = SimpleQueue()
        self._places = Window(capacity)

    def put(self, item: T) -> None:
        """Add an item; waits for a place."""
        self._places.acquire()
        self._items.put(item)

    def get(self) -> T:
        """Take the oldest item; waits for one."""
        item = self._items.get()
        self._places.release()
        return item


class ResultChannel:
    """A sink that hands results to another thread; when that is slow the streams wait, and nothing is lost."""

    needs_pictures = False
    outputs: tuple[Written, ...] = ()

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
