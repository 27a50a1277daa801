"""Puts results in order: batches may finish out of order, but each stream's results leave in order."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Reorder(Generic[T]):
    """Puts the results of one stream back into its order.

    Every sequence number from 0 on is either put or skipped, once. The stream's window bounds the results that are held back;
    ``limit`` only reveals a bug there. Consecutive skipped numbers are held as one run, so that a live stream can drop frames for
    as long as an engine is stuck.

    Args:
        limit: The maximum number of results and runs of skipped numbers that are held back at the same time.
    """

    __slots__ = ("_held", "_limit", "_next", "_run_first", "_run_stop")

    def __init__(self, limit: int = 4096) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self._held: dict[int, T] = {}
        self._run_stop: dict[int, int] = {}
        """The first number of a skipped run → the number after its last."""
        self._run_first: dict[int, int] = {}
        """The reverse mapping."""
        self._next = 0
        self._limit = limit

    def __len__(self) -> int:
        return len(self._held) + len(self._run_stop)

    def put(self, sequence: int, item: T) -> list[T]:
        """Add a result; return the results that can leave now, in order.

        Raises:
            ValueError: This number was put or skipped before.
            OverflowError: Too many results are held back.
        """
        if sequence == self._next and not self._held and not self._run_stop:  # the usual case: nothing is held back
            self._next = sequence + 1
            return [item]
        self._check(sequence)
        self._held[sequence] = item
        return self._ready()

    def skip(self, sequence: int) -> list[T]:
        """Skip the number of a dropped frame; return the results that can leave now, in order.

        Raises:
            ValueError: This number was put or skipped before.
            OverflowError: Too many results are held back.
        """
        self._check(sequence)
        first = self._run_first.pop(sequence, sequence)
        stop = self._run_stop.pop(sequence + 1, sequence + 1)
        self._run_stop[first] = stop
        self._run_first[stop] = first
        return self._ready()

    def _check(self, sequence: int) -> None:
        if sequence == self._next:  # the next number is neither held nor in a run, or it would have left
            return
        known = sequence < self._next or sequence in self._held
        if known or any(first <= sequence < stop for first, stop in self._run_stop.items()):
            raise ValueError(f"sequence {sequence} came twice")
        if len(self) >= self._limit and sequence not in self._run_first:
            raise OverflowError(f"{self._limit} results wait for sequence {self._next}")

    def _ready(self) -> list[T]:
        ready: list[T] = []
        while True:
            if self._next in self._held:
                ready.append(self._held.pop(self._next))
                self._next += 1
            elif self._next in self._run_stop:
                self._next = self._run_stop.pop(self._next)
                del self._run_first[self._next]
            else:
                return ready
