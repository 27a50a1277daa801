"""Where a stream's frames wait for their turn in a lane: a mailbox for live streams, a bounded queue for recorded ones."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


# Not frozen: that would treble what it costs to make one, and one is made for every frame.
@dataclass(slots=True)
class Waiting(Generic[T]):
    """Something that waits, since when, and its place in its stream."""

    item: T
    sequence: int
    """place in the stream, from 0; rises with every item offered"""
    arrived_ns: int
    """when it began to wait, monotonic"""


class FrameQueue(Protocol[T]):
    """What a lane asks of a stream's queue."""

    def __len__(self) -> int: ...

    @property
    def full(self) -> bool:
        """True when an item offered now would be refused; a mailbox never is."""
        ...

    def put(self, waiting: Waiting[T]) -> Waiting[T] | None:
        """Add an item; returns the item that is lost for it, or None.

        Raises:
            OverflowError: a bounded queue is full (ask :attr:`full` first).
            ValueError: the item is not newer than the last one.
        """
        ...

    def oldest(self) -> Waiting[T] | None:
        """The item that is next, without taking it."""
        ...

    def pop(self) -> Waiting[T]:
        """Take the item that is next.

        Raises:
            IndexError: nothing waits.
        """
        ...

    def clear(self) -> list[Waiting[T]]:
        """Take all that waits, oldest first."""
        ...


class Mailbox(Generic[T]):
    """One place, newest wins: what keeps a live stream's age bounded under any overload."""

    __slots__ = ("_last", "_waiting")

    full = False

    def __init__(self) -> None:
        self._waiting: Waiting[T] | None = None
        self._last = -1

    def __len__(self) -> int:
        return 0 if self._waiting is None else 1

    def put(self, waiting: Waiting[T]) -> Waiting[T] | None:
        """Put a newer item in the place of the one that waits; returns that one."""
        if waiting.sequence <= self._last:
            raise ValueError(f"sequence {waiting.sequence} is not newer than {self._last}")
        self._last = waiting.sequence
        superseded, self._waiting = self._waiting, waiting
        return superseded

    def oldest(self) -> Waiting[T] | None:
        """The item in the mailbox."""
        return self._waiting

    def pop(self) -> Waiting[T]:
        """Empty the mailbox."""
        if self._waiting is None:
            raise IndexError("the mailbox is empty")
        waiting, self._waiting = self._waiting, None
        return waiting

    def clear(self) -> list[Waiting[T]]:
        """Empty the mailbox."""
        return [] if self._waiting is None else [self.pop()]


class BoundedQueue(Generic[T]):
    """First in, first out, nothing lost: a full queue pushes back on the decoder."""

    __slots__ = ("_capacity", "_items", "_last")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._capacity = capacity
        self._items: deque[Waiting[T]] = deque()
        self._last = -1

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        """True when there is no place left."""
        return len(self._items) >= self._capacity

    def put(self, waiting: Waiting[T]) -> None:
        """Add an item behind the others."""
        if len(self._items) >= self._capacity:
            raise OverflowError(f"the queue holds {self._capacity} items already")
        if waiting.sequence <= self._last:
            raise ValueError(f"sequence {waiting.sequence} is not newer than {self._last}")
        self._last = waiting.sequence
        self._items.append(waiting)

    def oldest(self) -> Waiting[T] | None:
        """The item that came first."""
        return self._items[0] if self._items else None

    def pop(self) -> Waiting[T]:
        """Take the item that came first."""
        return self._items.popleft()

    def clear(self) -> list[Waiting[T]]:
        """Take all items, oldest first."""
        items = list(self._items)
        self._items.clear()
        return items
