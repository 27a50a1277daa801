"""Fair shares of the engine's time among streams, by weight.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996): every stream has a virtual time that advances by cost / weight with
each frame served, and the stream with the smallest virtual time goes next. A stream that had no frame waiting restarts at the
virtual time of the system: it gets no credit for its absence, and no debt is forgotten. The cost is engine time. It is estimated
when the frame is taken and corrected when its batch is done, so that large and small models share fairly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify


@dataclass(slots=True)
class _Account:
    weight: float
    virtual_ns: float = 0.0
    engine_ns: float = 0.0


class FairShares:
    """The account of every stream."""

    __slots__ = ("_accounts", "_now")

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._now = 0.0

    @property
    def now_ns(self) -> float:
        """The virtual time of the system, where a stream starts that had no frame waiting. It never decreases."""
        return self._now

    def join(self, stream: str, weight: float = 1.0) -> None:
        """Open an account.

        Raises:
            ValueError: The weight is not a number above 0, or the stream has an account.
        """
        _check(weight)
        if stream in self._accounts:
            raise ValueError(f"stream {stream!r} has joined already")
        self._accounts[stream] = _Account(weight, self._now)

    def leave(self, stream: str) -> None:
        """Close an account; later charges are ignored."""
        self._accounts.pop(stream, None)

    def set_weight(self, stream: str, weight: float) -> None:
        """Change a stream's weight for all charges from now on."""
        _check(weight)
        self._accounts[stream].weight = weight

    def wake(self, stream: str, lane_ns: float = math.inf) -> None:
        """Update a stream that had no frame waiting and has one now.

        Args:
            stream: The name of the stream.
            lane_ns: The smallest virtual time of the streams that wait in its lane. If the lane is behind the system, the stream
                starts at this time.
        """
        account = self._accounts[stream]
        account.virtual_ns = max(account.virtual_ns, min(self._now, lane_ns))

    def next_of(self, waiting_ns: Mapping[str, int]) -> tuple[float, int, str]:
        """Return the stream that goes next: its virtual time, the time since it waits, and its name.

        The batcher calls it for each batch with all waiting streams, so its loop calls no function.

        Args:
            waiting_ns: The streams that wait, at least one, and the time since they wait.
        """
        accounts = self._accounts
        min_ns, min_since_ns, next_stream = math.inf, 0, ""
        for stream, since_ns in waiting_ns.items():
            virtual_ns = accounts[stream].virtual_ns
            if virtual_ns > min_ns:
                continue
            if virtual_ns < min_ns or (since_ns, stream) < (min_since_ns, next_stream):
                min_ns, min_since_ns, next_stream = virtual_ns, since_ns, stream
        return min_ns, min_since_ns, next_stream

    def ranking(self, waiting_ns: Mapping[str, int]) -> list[tuple[float, int, str]]:
        """Return all streams that wait, each as :meth:`next_of` returns it, in a heap: the first goes next.

        Args:
            waiting_ns: The streams that wait, and the time since they wait.
        """
        accounts = self._accounts
        heap = [(accounts[stream].virtual_ns, since_ns, stream) for stream, since_ns in waiting_ns.items()]
        heapify(heap)
        return heap

    def virtual_cost_ns(self, stream: str, engine_ns: float) -> float:
        """Return the virtual time of an engine time for a stream."""
        return engine_ns / self._accounts[stream].weight

    def charge(self, stream: str, estimated_ns: float, others_ns: float = math.inf) -> float:
        """Charge a stream for a frame that was taken, with an estimate of its engine time until :meth:`correct`.

        Args:
            stream: The name of the stream.
            estimated_ns: The estimated engine time of the frame.
            others_ns: The smallest virtual time of the streams that could have been taken instead. The system's time stays behind
                it, so that a stream that wakes next competes with them.

        Returns:
            The stream's virtual time after it.
        """
        account = self._accounts[stream]
        began_ns = account.virtual_ns
        self._now = max(self._now, min(began_ns, others_ns))
        account.virtual_ns = charged_ns = began_ns + estimated_ns / account.weight
        return charged_ns

    def correct(self, stream: str, estimated_ns: float, charge_ns: float, engine_ns: float) -> None:
        """Replace the estimate for a frame by its charge, and count its measured engine time."""
        account = self._accounts.get(stream)
        if account is not None:
            account.virtual_ns += (charge_ns - estimated_ns) / account.weight
            account.engine_ns += engine_ns

    def advance(self, streams: Iterable[str], virtual_ns: float) -> None:
        """Advance streams by the same virtual time: they lose credit but keep their order."""
        for stream in streams:
            self._accounts[stream].virtual_ns += virtual_ns

    def engine_ns(self, stream: str) -> float:
        """Return the engine time that a stream has used, nanoseconds."""
        return self._accounts[stream].engine_ns


def _check(weight: float) -> None:
    if not 0 < weight < math.inf:
        raise ValueError(f"the weight must be a number above 0, got {weight}")
