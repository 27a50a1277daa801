"""The interface of connections to receivers, their errors, and the status of a sink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from vision_infer.config.actions.destination import SinkSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.sink.delivery.stream_images import ImageRequest
from vision_infer.sink.delivery.stream_snapshot import StreamSnapshot


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

    def row_in(self, spool: str) -> str:
        """Return the JSON object with the identifier of the record as its first field.

        Args:
            spool: The name of the spool.
        """
        return f'{{"id": "{self.id_in(spool)}", {self.text[1:]}'


class UndeliveredError(VisionInferError):
    """Records cannot be delivered now, and are tried again. The message names host and reason, and no secret.

    Args:
        message: The problem, one line.
        hint: What to do.
        patient: Whether an early retry is useless: a wrong password, a wrong certificate.
        after_s: The time after which the receiver accepts a retry, seconds; None: it gave none.
        hung_up: Whether the receiver closed the connection during delivery, perhaps because of one of the records.
    """

    def __init__(
        self, message: str, hint: str = "", patient: bool = False, after_s: float | None = None, hung_up: bool = False
    ) -> None:
        super().__init__(message, hint)
        self.patient = patient
        self.after_s = after_s
        self.hung_up = hung_up


class UnwantedError(VisionInferError):
    """The receiver will never accept these records.

    Args:
        message: The answer, one line.
        reason: The name under which they are counted: ``rejected_422``.
        expected: Whether the user has configured that they are not sent; then no warning is logged.
    """

    def __init__(self, message: str, reason: str, expected: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.expected = expected


@dataclass(frozen=True, slots=True)
class CarrierContext:
    """The context in which the module of a kind of sink opens a carrier: ``open_carrier(settings, context)``."""

    folder: Path
    """The folder of the spool, for further files."""
    streams: Callable[[], Iterable[StreamSnapshot]]
    """A function that returns the present streams."""
    request_image: Callable[[str], ImageRequest]
    """A function that requests the next image of a stream, with its detections drawn."""
    clock: Clock
    worker: str = ""
    """The name of the worker process; empty if the service has one process."""


class Carrier(Protocol):
    """A connection to a receiver, opened again after each failure. One thread uses it, except for :attr:`count`."""

    max_records: int
    """The maximum number of records in one delivery."""

    @property
    def count(self) -> Callable[[str, Mapping[str, int]], None] | None:
        """A function that receives the objects of each image, as stream and number by label; None: they are not needed."""
        ...

    def open(self, name: str) -> bool:
        """Connect, and return whether the receiver was reached.

        Args:
            name: The name of the spool, a unique identifier of this sink.

        Raises:
            UndeliveredError: The receiver cannot be reached, or refuses the connection.
        """
        ...

    def deliver(self, records: Sequence[Record]) -> None:
        """Deliver records, in order. The receiver has them when this returns.

        Raises:
            UndeliveredError: The receiver has none or some of them; all are delivered again.
            UnwantedError: It will never accept all of them.
        """
        ...

    def check(self) -> bool:
        """Connect and disconnect without sending anything, and return whether the receiver was reached.

        Raises:
            UndeliveredError: The receiver cannot be reached, or would not accept records.
        """
        ...

    def poll(self) -> None:
        """Do periodic work: called about once a second, and before each delivery.

        Raises:
            UndeliveredError: The connection is lost.
        """
        ...

    def close(self) -> None:
        """Disconnect, without waiting long."""
        ...


def carrier_of(kind: str, settings: SinkSettings, context: CarrierContext) -> Carrier:
    """Return the carrier of a sink, not connected yet. The module of a kind is named like its section of the settings."""
    carrier: Carrier = import_module(f"vision_infer.sink.delivery.{kind}").open_carrier(settings, context)
    return carrier


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """The status of a sink."""

    name: str
    kind: str
    """``mqtt``, ``webhook``, ``kafka``, ``nats``, ``redis``, ``amqp``, ``notify``, ``jsonl``, ``parquet`` or ``samples``"""
    connected: bool
    """Whether the receiver accepted the last delivery; for files: whether they can be written."""
    error: str | None
    """The present problem, one line without secrets."""
    queued: int
    """The number of records in memory that wait for the disk."""
    waiting: int
    """The number of records on the disk that wait to be sent."""
    spool_bytes: int
    """The size of the spool, bytes."""
    oldest_wall_ns: int | None
    """The time of the oldest waiting record, nanoseconds since 1970 (UTC); None if no record waits."""
    sent: int
    """The number of delivered records, or of written rows."""
    dropped: Mapping[str, int]
    """The number of lost records by reason."""
    rule: str | None = None
    """For ``notify``, the rule in words, without secrets."""
