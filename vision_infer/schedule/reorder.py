"""Batches may finish out of order; each stream's results leave in order."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Reorder(Generic[T]):
    """Puts the results of one stream back into its order.

    Every sequence number from 0 on is either put or skipped, once. What is held back is bounded by what is in flight:
    whoever hands out the numbers bounds those (``limit`` makes a mistake there loud).

    Args:
        limit: most items held back at the same time.
    """

    __slots__ = ("_held", "_limit", "_next")

    def __init__(self, limit: int = 4096) -> None:
        self._held: dict[int, T | None] = {}
        self._next = 0
        self._limit = limit

    def __len__(self) -> int:
        return len(self._held)

    def put(self, sequence: int, item: T) -> list[T]:
        """Add a result; returns the results that can leave now, in order.

        Raises:
            ValueError: this number was put or skipped before.
            OverflowError: too many are held back.
        """
        return self._add(sequence, item)

    def skip(self, sequence: int) -> list[T]:
        """There will be no result with this number (dropped); returns the results that can leave now, in order."""
        return self._add(sequence, None)

    def _add(self, sequence: int, item: T | None) -> list[T]:
        if sequence < self._next or sequence in self._held:
            raise ValueError(f"sequence {sequence} came twice")
        if sequence != self._next and len(self._held) >= self._limit:
            raise OverflowError(f"{self._limit} results wait for sequence {self._next}")
        self._held[sequence] = item
        ready: list[T] = []
        while self._next in self._held:
            left = self._held.pop(self._next)
            self._next += 1
            if left is not None:
                ready.append(left)
        return ready
