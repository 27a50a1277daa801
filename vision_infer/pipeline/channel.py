"""Bounded ways from thread to thread.

They are made of plain locks and ``queue.SimpleQueue``, which are written in C: on the way of every frame, the standard library's
``Semaphore`` and ``Queue`` cost several times as much.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.sink import Written

T = TypeVar("T")
CAPACITY = 64
OFTEN_NS = 5_000_000
"""waits that begin in less than this, one after the other, are frequent: changing threads then costs as much as the work"""
_SELDOM_NS = 8 * OFTEN_NS


class Window:
    """So many credits, of which one thread takes and any gives back.

    Who finds none waits until half of them are back, or all where streams are many: so one awakening serves several frames.
    As every frame gives its credit back without needing another one to follow, they do come back.

    Args:
        size: how many there are, at least 1.
        widest: how many there may be while frames go through so quickly that who takes them would wait often.
        clock: says how often that is.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_free",
        "_gate",
        "_least",
        "_lock",
        "_many",
        "_resume_at",
        "_size",
        "_waited_ns",
        "_waiting",
        "_widest",
    )

    def __init__(self, size: int, widest: int = 0, clock: Clock = SYSTEM_CLOCK) -> None:
        if size < 1:
            raise ValueError(f"a window has at least 1 place, got {size}")
        self._clock = clock
        self._many: Callable[[], bool] | None = None
        self._waited_ns: int | None = None
        self._size = self._free = 0
        self._resume_at = 1
        self._waiting = False
        self._closed = False
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._gate.acquire()
        self.bound(size, widest)

    def acquire(self) -> bool:
        """Take a credit, waiting for one; False when the window was closed."""
        while True:
            with self._lock:
                if self._closed:
                    return False
                if self._free > 0:
                    self._free -= 1
                    return True
                if self._least < self._widest and self._adapt():
                    continue
                self._waiting = True
                many = self._many is not None and self._many()
                self._resume_at = self._size if many else max(1, self._size // 2)
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

    def bound(self, size: int, widest: int, many: Callable[[], bool] | None = None) -> None:
        """Set how many there are, before any credit is taken.

        Args:
            size: places, at least 1.
            widest: places that there may be while frames go through quickly.
            many: says, when somebody begins to wait, whether other streams keep the engine busy meanwhile: then it goes on when
                all credits are back, not half of them.
        """
        with self._lock:
            self._least, self._widest, self._many = size, max(size, widest), many
            self._resize(size)

    def _adapt(self) -> bool:
        """Nothing is left: give more places where waits are frequent, and as few as at first where they are rare.

        Returns:
            Whether there is a credit now; else somebody has to wait.
        """
        now, before = self._clock.monotonic_ns(), self._waited_ns
        if before is not None:
            if now - before < OFTEN_NS:
                self._resize(min(2 * self._size, self._widest))
            elif now - before > _SELDOM_NS:
                self._resize(self._least)
        if self._free > 0:
            return True
        self._waited_ns = now
        return False

    def _resize(self, size: int) -> None:
        self._free += size - self._size
        self._size = size

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

    needs_images = False
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
