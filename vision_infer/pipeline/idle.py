"""Idle threads, and how to wake them up."""

from __future__ import annotations

import threading


class Idle:
    """The idle threads of a group that shares one lock. The caller of every method holds that lock.

    The thread that became idle last is woken up first, because its data is still in the caches. A thread that was woken up counts
    as *coming* until it holds the lock again, so that no second thread is woken up for the same reason. Like
    :mod:`vision_infer.pipeline.channel`, it uses plain locks: a ``Condition`` wakes up its threads in turn, and costs more.
    """

    __slots__ = ("_gates", "_lock", "coming")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._gates: list[threading.Lock] = []
        """One lock for each idle thread, which sleeps on it; it is always locked."""
        self.coming = 0
        """The number of threads that were woken up and do not hold the lock yet."""

    def __len__(self) -> int:
        return len(self._gates)

    def rest(self, timeout_s: float | None) -> None:
        """Release the shared lock until this thread is woken up, or the time is over; then acquire it again."""
        gate = threading.Lock()
        gate.acquire()
        self._gates.append(gate)
        self._lock.release()
        gate.acquire(timeout=-1 if timeout_s is None else timeout_s)
        self._lock.acquire()
        if gate in self._gates:  # nothing has woken it up: the time is over
            self._gates.remove(gate)
        else:
            self.coming -= 1

    def call(self) -> None:
        """Wake up one thread, if any is idle."""
        if self._gates:
            self.coming += 1
            self._gates.pop().release()

    def call_all(self) -> None:
        """Wake up all idle threads."""
        while self._gates:
            self.call()
