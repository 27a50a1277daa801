"""Threads that have nothing to do, until somebody calls one of them."""

from __future__ import annotations

import threading


class Idle:
    """Where threads rest that share one lock; all methods are called while it is held.

    Who came to rest last is called first: what it works with is still in the caches. Who was called counts as *coming* until it
    holds the lock again, so that nobody else is called for the same reason. It is made of plain locks, as
    :mod:`vision_infer.pipeline.channel` is: a ``Condition`` calls its threads in turn, and costs several times as much.
    """

    __slots__ = ("_gates", "_lock", "coming")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._gates: list[threading.Lock] = []
        """of those that rest, each closed"""
        self.coming = 0
        """threads that were called and have not come yet"""

    def __len__(self) -> int:
        return len(self._gates)

    def rest(self, timeout_s: float | None) -> None:
        """Let go of the lock until this thread is called, or the time is over; then hold it again."""
        gate = threading.Lock()
        gate.acquire()
        self._gates.append(gate)
        self._lock.release()
        gate.acquire(timeout=-1 if timeout_s is None else timeout_s)
        self._lock.acquire()
        if gate in self._gates:  # the time was over
            self._gates.remove(gate)
        else:
            self.coming -= 1

    def call(self) -> None:
        """Call one thread, if any rests."""
        if self._gates:
            self.coming += 1
            self._gates.pop().release()

    def call_all(self) -> None:
        """Call all that rest."""
        while self._gates:
            self.call()
