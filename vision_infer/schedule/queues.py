"""The queues of a stream's frames in a lane: a mailbox for live streams, a bounded queue for recorded ones."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


# Not frozen: creation would cost three times as much, and there is one for every frame.
@dataclass(slots=True)
class QueuedItem(Generic[T]):
    """An item in a queue, with its arrival time and its sequence number in the stream."""

    item: T
    sequence: int
    """The sequence number in the stream, from 0; it increases with every item."""
    arrived_ns: int
    """The time when it was queued, monotonic."""
    slots: int = 1
    """The number of slots that it needs in a batch."""


class FrameQueue(Protocol[T]):
    """The interface of a stream's queue."""

    def __len__(self) -> int: ...

    @property
    def full(self) -> bool:
        """Whether the queue refuses an item now; a mailbox never does."""
        ...

    def put(self, queued: QueuedItem[T]) -> QueuedItem[T] | None:
        """Add an item; return the item that it replaces, or None.

        Raises:
            OverflowError: A bounded queue is full; check :attr:`full` first.
            ValueError: The item is not newer than the last one.
        """
        ...

    def oldest(self) -> QueuedItem[T] | None:
        """Return the next item without taking it."""
        ...

    def pop(self) -> QueuedItem[T]:
        """Take the next item.

        Raises:
            IndexError: The queue is empty.
        """
        ...

    def clear(self) -> list[QueuedItem[T]]:
        """Take all items, oldest first."""
        ...


class Mailbox(Generic[T]):
    """One slot, newest wins: this bounds the age of a live stream's frames under any overload."""

    __slots__ = ("_last", "_waiting")

    full = False

    def __init__(self) -> None:
        self._waiting: QueuedItem[T] | None = None
        self._last = -1

    def __len__(self) -> int:
        return 0 if self._waiting is None else 1

    def put(self, queued: QueuedItem[T]) -> QueuedItem[T] | None:
        """Replace the waiting item by a newer one; return the replaced item, or None."""
        if queued.sequence <= self._last:
            raise ValueError(f"sequence {queued.sequence} is not newer than {self._last}")
        self._last = queued.sequence
        superseded, self._waiting = self._waiting, queued
        return superseded

    def oldest(self) -> QueuedItem[T] | None:
        """Return the item in the mailbox."""
        return self._waiting

    def pop(self) -> QueuedItem[T]:
        """Empty the mailbox."""
        if self._waiting is None:
            raise IndexError("the mailbox is empty")
        waiting, self._waiting = self._waiting, None
        return waiting

    def clear(self) -> list[QueuedItem[T]]:
        """Empty the mailbox."""
        return [] if self._waiting is None else [self.pop()]


class BoundedQueue(Generic[T]):
    """First in, first out, without loss: a full queue makes the decoder wait."""

    __slots__ = ("_capacity", "_items", "_last")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._capacity = capacity
        self._items: deque[QueuedItem[T]] = deque()
        self._last = -1

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether the capacity is used up."""
        return len(self._items) >= self._capacity

    def put(self, queued: QueuedItem[T]) -> None:
        """Add an item at the end."""
        if len(self._items) >= self._capacity:
            raise OverflowError(f"the queue holds {self._capacity} items already")
        if queued.sequence <= self._last:
            raise ValueError(f"sequence {queued.sequence} is not newer than {self._last}")
        self._last = queued.sequence
        self._items.append(queued)

    def oldest(self) -> QueuedItem[T] | None:
        """Return the oldest item."""
        return self._items[0] if self._items else None

    def pop(self) -> QueuedItem[T]:
        """Take the oldest item."""
        return self._items.popleft()

    def clear(self) -> list[QueuedItem[T]]:
        """Take all items, oldest first."""
        items = list(self._items)
        self._items.clear()
        return items
