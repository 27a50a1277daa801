"""Bounded ways from thread to thread.

They are made of plain locks and ``queue.SimpleQueue``, which are written in C: on the way of every frame, the standard library's
``Semaphore`` and ``Queue`` cost several times as much.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.sink import Written

T = TypeVar("T")
CAPACITY = 64


class Window:
    """So many credits, of which one thread takes and any gives back.

    Who finds none waits until half of them are back, or as many as :meth:`shrink` says: so one awakening serves several frames.
    As every frame gives its credit back without needing another one to follow, they do come back.
    """

    __slots__ = ("_closed", "_free", "_gate", "_lock", "_resume_at", "_size", "_waiting")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a window has at least 1 place, got {size}")
        self._size = self._free = size
        self._resume_at = max(1, size // 2)
        self._waiting = False
        self._closed = False
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._gate.acquire()

    def acquire(self) -> bool:
        """Take a credit, waiting for one; False when the window was closed."""
        while True:
            with self._lock:
                if self._closed:
                    return False
                if self._free > 0:
                    self._free -= 1
                    return True
                self._waiting = True
            self._gate.acquire()

    def try_acquire(self) -> bool:
        """Take a credit if there is one now."""
        with self._lock:
            if self._free < 1:
                return False
            self._free -= 1
            return True

    def release(self) -> None:
        """Give a credit back."""
        with self._lock:
            self._free += 1
            if self._waiting and self._free >= self._resume_at:
                self._waiting = False
                self._gate.release()

    def shrink(self, size: int, resume_at: int | None = None) -> None:
        """Take places away for good, before any credit is taken.

        Args:
            size: places that are left, at least 1 and no more than there were.
            resume_at: credits that are back before who waits goes on, at most ``size``; None: half of them.
        """
        with self._lock:
            self._free -= self._size - size
            self._size = size
            self._resume_at = max(1, size // 2) if resume_at is None else resume_at

    def close(self) -> None:
        """Give out no more credits; who waits for one goes on without."""
        with self._lock:
            self._closed = True
            if self._waiting:
                self._waiting = False
                self._gate.release()


class Channel(Generic[T]):
    """First in, first out, between any number of threads; putting waits while ``capacity`` items are inside."""

    __slots__ = ("_items", "_places")

    def __init__(self, capacity: int) -> None:
        self._items: SimpleQueue[T] = SimpleQueue()
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(capacity):
            self._places.put(None)

    def put(self, item: T) -> None:
        """Add an item; waits for a place."""
        self._places.get()
        self._items.put(item)

    def get(self) -> T:
        """Take the oldest item; waits for one."""
        item = self._items.get()
        self._places.put(None)
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
