"""Fair shares of the engine's time among streams, by weight.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996): every stream has a virtual time that advances by cost / weight
with each frame served, and the stream whose virtual time is least goes next. A stream that had nothing waiting starts again
at the virtual time of the system: it gets no credit for its absence and no debt is forgotten. The cost is engine time; it is
estimated when the frame is taken and corrected when its batch is done, so that large and small networks share fairly.
"""

from __future__ import annotations

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

    def join(self, stream: str, weight: float = 1.0) -> None:
        """Open an account.

        Raises:
            ValueError: the weight is not above 0, or the stream has an account.
        """
        if not weight > 0:
            raise ValueError(f"the weight must be above 0, got {weight}")
        if stream in self._accounts:
            raise ValueError(f"stream {stream!r} has joined already")
        self._accounts[stream] = _Account(weight, self._now)

    def leave(self, stream: str) -> None:
        """Close an account; what is still charged to it is ignored."""
        self._accounts.pop(stream, None)

    def set_weight(self, stream: str, weight: float) -> None:
        """Change a stream's weight; it holds for what is charged from now on."""
        if not weight > 0:
            raise ValueError(f"the weight must be above 0, got {weight}")
        self._accounts[stream].weight = weight

    def wake(self, stream: str) -> None:
        """The stream had nothing waiting and has something now."""
        account = self._accounts[stream]
        if account.virtual_ns < self._now:
            account.virtual_ns = self._now

    def virtual_ns(self, stream: str) -> float:
        """Where the stream stands: the least goes next."""
        return self._accounts[stream].virtual_ns

    def charge(self, stream: str, estimated_ns: float) -> None:
        """A frame of the stream was taken; its engine time is an estimate until :meth:`correct`."""
        account = self._accounts[stream]
        self._now = max(self._now, account.virtual_ns)
        account.virtual_ns += estimated_ns / account.weight

    def correct(self, stream: str, estimated_ns: float, engine_ns: float) -> None:
        """The frame is done and has cost ``engine_ns``."""
        account = self._accounts.get(stream)
        if account is not None:
            account.virtual_ns += (engine_ns - estimated_ns) / account.weight
            account.engine_ns += engine_ns

    def engine_ns(self, stream: str) -> float:
        """Engine time that the stream has used, nanoseconds."""
        return self._accounts[stream].engine_ns
