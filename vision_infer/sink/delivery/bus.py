"""What the message buses have in common: the messages of records, with or without a CloudEvents envelope, and the event loop.

CloudEvents 1.0.2 is written as the protocol binding of each bus specifies. Redis has no binding, and that of NATS has no binary
mode; both get the structured mode, the JSON event format.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from vision_infer.config.sinks import BusSettings
from vision_infer.core.result import utc
from vision_infer.sink.delivery.carrier import Record, UndeliveredError
from vision_infer.sink.delivery.certificates import tls_problem

CONNECT_S = 10.0
"""The timeout for the broker to answer, seconds."""
ACKNOWLEDGE_S = 20.0
"""The timeout for acknowledgments, seconds."""
JSON = "application/json"
CLOUDEVENT = "application/cloudevents+json; charset=UTF-8"

_Bus = TypeVar("_Bus", bound=BusSettings)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BusMessage:
    """A record as a message."""

    id: str
    """The identifier of the record; the same if it is sent again."""
    kind: str
    """As in :attr:`Record.kind`."""
    stream: str
    """The name of the stream, the key of the message; empty if the record belongs to none."""
    content_type: str
    headers: dict[str, str]
    body: bytes

    def subject(self, prefix: str) -> str:
        """Return ``PREFIX.KIND.STREAM``, or ``PREFIX.KIND`` if the record belongs to no stream."""
        return ".".join(part for part in (prefix, self.kind, self.stream) if part)


class BusCarrier(Generic[_Bus]):
    """The common part of the carriers of message buses.

    Args:
        settings: The settings of the sink.
    """

    count = None
    max_records = 200
    """The maximum number of records in one delivery."""
    connect_s, acknowledge_s = CONNECT_S, ACKNOWLEDGE_S
    ce_prefix: ClassVar[str] = ""
    """The prefix of CloudEvents attributes in headers, by the protocol binding."""

    def __init__(self, settings: _Bus) -> None:
        self._settings = settings
        self._where = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in settings.hosts)
        self._password = None if settings.password is None else settings.password.get_secret_value()
        self._name = ""

    def open(self, name: str) -> bool:
        """Connect."""
        raise NotImplementedError

    def close(self) -> None:
        """Disconnect."""
        raise NotImplementedError

    def check(self) -> bool:
        """Connect and disconnect without sending anything."""
        try:
            return self.open("doctor")
        finally:
            self.close()

    def _message(self, record: Record) -> BusMessage:
        identifier, row, content_type = record.id_in(self._name), record.row_in(self._name), JSON
        headers = {"id": identifier, "kind": record.kind} | ({"stream": record.stream} if record.stream else {})
        if self._settings.cloudevents == "binary":
            headers |= {f"{self.ce_prefix}{name}": value for name, value in _attributes(record, identifier).items()}
        elif self._settings.cloudevents == "structured":
            content_type = CLOUDEVENT
            attributes = json.dumps(_attributes(record, identifier) | {"datacontenttype": JSON})
            row = f'{attributes[:-1]}, "data": {row}}}'
        body = row.encode("utf-8", "backslashreplace")
        return BusMessage(identifier, record.kind, record.stream, content_type, headers, body)

    def _unacknowledged(self) -> UndeliveredError:
        return UndeliveredError(f"{self._where}: no acknowledgment within {self.acknowledge_s:g} s")

    def _unreachable(self, error: BaseException) -> UndeliveredError:
        """Return a failed connection as an error: a certificate, an unknown host, no answer, or the reason of the system."""
        problem = tls_problem(self._where, error)
        if problem is not None:
            return problem
        if isinstance(error, TimeoutError):
            return UndeliveredError(f"{self._where}: no answer within {self.connect_s:g} s", "Check host, port and TLS.")
        causes = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return UndeliveredError(f"{self._where}: unknown host")
        number = next((cause.errno for cause in reversed(causes) if isinstance(cause, OSError) and cause.errno), None)
        # The text of asyncio repeats the address only.
        reason = os.strerror(number) if number else " ".join((str(error) or type(error).__name__).split())
        hint = "Check that the port uses TLS." if self._settings.tls and number == errno.ECONNRESET else ""
        return UndeliveredError(f"{self._where}: cannot be reached: {reason}", hint)


def _attributes(record: Record, identifier: str) -> dict[str, str]:
    """Return the attributes of a CloudEvent, and that of the partitioning extension."""
    stream = {"subject": record.stream, "partitionkey": record.stream} if record.stream else {}
    return {
        "specversion": "1.0",
        "id": identifier,
        "source": f"/vision-infer/{record.stream}" if record.stream else "/vision-infer",
        "type": f"vision-infer.{record.kind}",
        "time": utc(record.wall_ns),
    } | stream


class _BusLoop(asyncio.SelectorEventLoop):
    """An event loop that resolves host names on its own thread: a thread of an executor would delay the end of the process."""

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        return list(socket.getaddrinfo(host, port, family, type, proto, flags))


class LoopBusCarrier(BusCarrier[_Bus]):
    """A carrier whose client library is asynchronous. Its event loop runs only during the calls, on the thread of the sender.

    One message of each stream is in flight. So a message that the broker refuses for a moment, because its queue is full or its
    leader changes, is never overtaken by the next one of its stream.
    """

    def __init__(self, settings: _Bus) -> None:
        super().__init__(settings)
        self._runner: asyncio.Runner | None = None

    def _run(self, coroutine: Coroutine[Any, Any, _T], limit_s: float) -> _T:
        """Run a coroutine to its end.

        Raises:
            TimeoutError: It takes longer than ``limit_s`` seconds.
        """
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=_BusLoop)
        return self._runner.run(asyncio.wait_for(coroutine, limit_s))

    def _stop(self) -> None:
        """End the event loop and what runs in it."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()

    async def _in_order(self, records: Sequence[Record], send: Callable[[BusMessage], Coroutine[Any, Any, None]]) -> None:
        """Send records: the streams concurrently, and those of one stream one after another.

        Raises:
            Exception: The first problem of a message; the other streams stop.
        """
        by_stream: dict[str, list[BusMessage]] = {}
        for record in records:
            by_stream.setdefault(record.stream, []).append(self._message(record))

        async def send_all(messages: list[BusMessage]) -> None:
            for message in messages:
                await send(message)

        tasks = [asyncio.ensure_future(send_all(messages)) for messages in by_stream.values()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
