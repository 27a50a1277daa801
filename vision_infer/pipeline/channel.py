"""Bounded queues between threads.

They use plain locks and ``queue.SimpleQueue``, which are written in C. Every frame passes them, and the standard library's
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
"""Waits that start less than this after each other are frequent: switching threads then costs as much as the work."""
_SELDOM_NS = 8 * OFTEN_NS


class Window:
    """A number of credits: one thread, the decoder's, takes them; any thread returns them.

    When there is no credit, the decoder waits until half of them are back, or all if there are many streams, so that it wakes up
    once for several frames. This cannot deadlock: a frame returns its credit without needing a later frame.

    Args:
        size: The number of credits, at least 1.
        widest: The maximum number of credits while frames pass so quickly that the decoder would wait often.
        clock: Measures how often it waits.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_free",
        "_gate",
        "_lock",
        "_many",
        "_min_size",
        "_resume_at",
        "_size",
        "_waited_ns",
        "_waiting",
        "_widest",
    )

    def __init__(self, size: int, widest: int = 0, clock: Clock = SYSTEM_CLOCK) -> None:
        if size < 1:
            raise ValueError(f"a window needs at least 1 credit, got {size}")
        self._clock = clock
        self._many: Callable[[], bool] | None = None
        self._waited_ns: int | None = None
        self._size = self._free = 0
        self._resume_at = 1
        self._waiting = False
        self._closed = False
        # Guards all counts below. The decoder holds it while it takes a credit, every other thread while it returns one; no
        # thread waits while holding it.
        self._lock = threading.Lock()
        # The decoder sleeps on this lock. It is always locked; the thread that clears `_waiting` releases it once.
        self._gate = threading.Lock()
        self._gate.acquire()
        self.bound(size, widest)

    def acquire(self) -> bool:
        """Take a credit, and wait for it if necessary; return False when the window is closed."""
        while True:
            with self._lock:
                if self._closed:
                    return False
                if self._free > 0:
                    self._free -= 1
                    return True
                if self._min_size < self._widest and self._adapt():
                    continue  # the window was widened: there is a credit now
                # Wait for a batch of credits, not for one: each wake-up switches threads.
                self._waiting = True
                many = self._many is not None and self._many()
                self._resume_at = self._size if many else max(1, self._size // 2)
            self._gate.acquire()

    def try_acquire(self) -> bool:
        """Take a credit if there is one; return whether there was."""
        with self._lock:
            if self._free < 1:
                return False
            self._free -= 1
            return True

    def release(self) -> None:
        """Return a credit, and wake up the decoder if enough are back."""
        with self._lock:
            self._free += 1
            if self._waiting and self._free >= self._resume_at:
                self._waiting = False
                self._gate.release()

    def bound(self, size: int, widest: int, many: Callable[[], bool] | None = None) -> None:
        """Set the number of credits, before any is taken.

        Args:
            size: The number of credits, at least 1.
            widest: The maximum number of credits while frames pass quickly.
            many: Returns, when the decoder starts to wait, whether other streams keep the engine busy meanwhile. Then it
                continues when all credits are back, not half of them.
        """
        with self._lock:
            self._min_size, self._widest, self._many = size, max(size, widest), many
            self._resize(size)

    def _adapt(self) -> bool:
        """Change the number of credits, when none is left: more if waits are frequent, the first number if they are rare.

        Returns:
            Whether there is a credit now; otherwise the decoder has to wait.
        """
        now, before = self._clock.monotonic_ns(), self._waited_ns
        if before is not None:
            if now - before < OFTEN_NS:
                self._resize(min(2 * self._size, self._widest))
            elif now - before > _SELDOM_NS:
                self._resize(self._min_size)
        if self._free > 0:
            return True
        self._waited_ns = now
        return False

    def _resize(self, size: int) -> None:
        self._free += size - self._size
        self._size = size

    def close(self) -> None:
        """Give out no more credits; a waiting decoder continues without one."""
        with self._lock:
            self._closed = True
            if self._waiting:
                self._waiting = False
                self._gate.release()


class Channel(Generic[T]):
    """A first-in, first-out queue between any number of threads; ``put`` waits while ``capacity`` items are inside."""

    __slots__ = ("_free", "_items")

    def __init__(self, capacity: int) -> None:
        self._items: SimpleQueue[T] = SimpleQueue()
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(capacity):
            self._free.put(None)

    def put(self, item: T) -> None:
        """Add an item; wait while the channel is full."""
        self._free.get()
        self._items.put(item)

    def get(self) -> T:
        """Take the oldest item; wait for one if necessary."""
        item = self._items.get()
        self._free.put(None)
        return item


class ResultChannel:
    """A sink that passes results to another thread. If that thread is slow, the streams wait; no result is lost."""

    needs_images = False
    outputs: tuple[Written, ...] = ()

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._results: deque[Result] = deque()
        # Guards the results and the end. The sink's thread holds it to add a result, the reader to take one.
        self._changed = threading.Condition()
        self._closed = False

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add a result, once the channel has capacity. A closed channel discards it."""
        if result is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: len(self._results) < self._capacity or self._closed)
            if not self._closed:
                self._results.append(result)
                self._changed.notify_all()

    def finish(self) -> None:
        """Mark the end: the reader gets the remaining results, then the iteration ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def close(self, complete: bool) -> None:  # noqa: ARG002
        """Do the same as :meth:`finish`."""
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
