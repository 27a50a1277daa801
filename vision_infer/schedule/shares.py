"""Fair shares of the engine's time among streams, by weight.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996): every stream has a virtual time that advances by cost / weight
with each frame served, and the stream whose virtual time is least goes next. A stream that had nothing waiting starts again
at the virtual time of the system: it gets no credit for its absence and no debt is forgotten. The cost is engine time; it is
estimated when the frame is taken and corrected when its batch is done, so that large and small networks share fairly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


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
        """The virtual time of the system: where a stream starts that had nothing waiting. It never goes back."""
        return self._now

    def join(self, stream: str, weight: float = 1.0) -> None:
        """Open an account.

        Raises:
            ValueError: the weight is not a number above 0, or the stream has an account.
        """
        _check(weight)
        if stream in self._accounts:
            raise ValueError(f"stream {stream!r} has joined already")
        self._accounts[stream] = _Account(weight, self._now)

    def leave(self, stream: str) -> None:
        """Close an account; what is still charged to it is ignored."""
        self._accounts.pop(stream, None)

    def set_weight(self, stream: str, weight: float) -> None:
        """Change a stream's weight; it holds for what is charged from now on."""
        _check(weight)
        self._accounts[stream].weight = weight

    def wake(self, stream: str, lane_ns: float = math.inf) -> None:
        """The stream had nothing waiting and has something now.

        Args:
            stream: its name.
            lane_ns: the least virtual time among those that wait in its lane; where the lane is behind the system, the stream
                starts beside them, not behind.
        """
        account = self._accounts[stream]
        account.virtual_ns = max(account.virtual_ns, min(self._now, lane_ns))

    def virtual_ns(self, stream: str) -> float:
        """Where the stream stands: the least goes next."""
        return self._accounts[stream].virtual_ns

    def least(self, waiting_ns: Mapping[str, int]) -> tuple[float, int, str]:
        """Who goes next: its virtual time, since when it waits, and its name.

        It is asked for each batch and looks at all that wait, so nothing is called in its loop.

        Args:
            waiting_ns: the streams that wait, at least one, and since when.
        """
        accounts = self._accounts
        least_ns, least_since_ns, next_stream = math.inf, 0, ""
        for stream, since_ns in waiting_ns.items():
            virtual_ns = accounts[stream].virtual_ns
            if virtual_ns > least_ns:
                continue
            if virtual_ns < least_ns or (since_ns, stream) < (least_since_ns, next_stream):
                least_ns, least_since_ns, next_stream = virtual_ns, since_ns, stream
        return least_ns, least_since_ns, next_stream

    def virtual_cost_ns(self, stream: str, engine_ns: float) -> float:
        """How far so much engine time takes the stream."""
        return engine_ns / self._accounts[stream].weight

    def charge(self, stream: str, estimated_ns: float, others_ns: float = math.inf) -> None:
        """A frame of the stream was taken; its engine time is an estimate until :meth:`correct`.

        Args:
            stream: its name.
            estimated_ns: what the frame will cost.
            others_ns: the least virtual time among those that could have been taken instead: the system's time stays
                behind it, so that whoever wakes next competes with them.
        """
        account = self._accounts[stream]
        self._now = max(self._now, min(account.virtual_ns, others_ns))
        account.virtual_ns += estimated_ns / account.weight

    def correct(self, stream: str, estimated_ns: float, engine_ns: float) -> None:
        """The frame is done and has cost ``engine_ns``."""
        account = self._accounts.get(stream)
        if account is not None:
            account.virtual_ns += (engine_ns - estimated_ns) / account.weight
            account.engine_ns += engine_ns

    def advance(self, streams: Iterable[str], virtual_ns: float) -> None:
        """Take credit from streams, from each as much: their order among themselves stays."""
        for stream in streams:
            self._accounts[stream].virtual_ns += virtual_ns

    def engine_ns(self, stream: str) -> float:
        """Engine time that the stream has used, nanoseconds."""
        return self._accounts[stream].engine_ns


def _check(weight: float) -> None:
    if not 0 < weight < math.inf:
        raise ValueError(f"the weight must be a number above 0, got {weight}")
