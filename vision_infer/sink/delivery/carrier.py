"""What carries records to where they shall go, and how that stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vision_infer.core.errors import VisionInferError


@dataclass(frozen=True, slots=True)
class Record:
    """A message to a receiver."""

    number: int
    """The number of the record in its spool, from 1, in the order of sending."""
    wall_ns: int
    """The time at which it was put into the spool, nanoseconds since 1970 (UTC)."""
    kind: str
    """``detections``, ``events``, ``states``, ``degraded`` or ``engine``."""
    stream: str
    """The name of the stream; empty if the record belongs to none."""
    text: str
    """A JSON object."""

    def id_in(self, spool: str) -> str:
        """Return the identifier of the record. The time makes it unique even where a power failure made a number repeat.

        Args:
            spool: The name of the spool.
        """
        return f"{spool}-{self.number}-{self.wall_ns // 1_000_000:x}"


class UndeliveredError(VisionInferError):
    """It cannot be delivered now, and is tried again. The message names host and reason, and no secret.

    Args:
        message: what is wrong, one line.
        hint: what to do.
        patient: asking again soon would not help: a wrong password, a wrong certificate.
        after_s: how long the receiver wants us to wait, seconds; None: it says nothing.
        hung_up: the receiver ended the connection while records were handed over: it may be because of one of them.
    """

    def __init__(
        self, message: str, hint: str = "", patient: bool = False, after_s: float | None = None, hung_up: bool = False
    ) -> None:
        super().__init__(message, hint)
        self.patient = patient
        self.after_s = after_s
        self.hung_up = hung_up


class UnwantedError(VisionInferError):
    """The receiver will never take these records.

    Args:
        message: what it answered, one line.
        reason: the name under which they are counted: ``rejected_422``.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Carrier(Protocol):
    """A connection to a receiver, made anew after each failure. Used by one thread."""

    most: int
    """records that are handed over together, at most"""

    def open(self, name: str) -> bool:
        """Connect; whether the receiver was reached by that.

        Args:
            name: of the spool; tells us from all others.

        Raises:
            UndeliveredError: it cannot be reached, or refuses us.
        """
        ...

    def deliver(self, records: Sequence[Record]) -> None:
        """Hand records over, in order. When it returns the receiver has them.

        Raises:
            UndeliveredError: it has perhaps some of them; all are delivered again.
            UnwantedError: it will never take them all.
        """
        ...

    def look(self) -> None:
        """Do what is due: called every second or so, and when there is nothing to deliver.

        Raises:
            UndeliveredError: the connection is lost.
        """
        ...

    def close(self) -> None:
        """Say goodbye, where that takes no long time."""
        ...


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """How a sink stands."""

    name: str
    kind: str
    """``mqtt``, ``webhook``, ``jsonl`` or ``parquet``"""
    connected: bool
    """what was sent last was taken; for files: they can be written"""
    error: str | None
    """what is wrong at present, one line without secrets"""
    queued: int
    """what waits in memory for the disk"""
    waiting: int
    """records that wait on the disk to be sent"""
    spool_bytes: int
    oldest_wall_ns: int | None
    """about since when the oldest of what waits does, nanoseconds since 1970 (UTC); None where nothing waits"""
    sent: int
    """records that were taken, or rows that were written"""
    dropped: Mapping[str, int]
    """records that were lost, by reason"""
