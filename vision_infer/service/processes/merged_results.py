"""The results of all workers for many clients: each client reads from every worker, at its own speed."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, cast, get_args
from urllib.parse import urlencode

import httpx

from vision_infer.core.clock import Clock
from vision_infer.pipeline.status import StreamEvent
from vision_infer.service.events import MovedEvent, kind_of, to_row, wall_ns_of
from vision_infer.service.processes.worker_client import FleetClient, WorkerRequest
from vision_infer.service.results.hub import TooManyReadersError
from vision_infer.service.results.row import ResultFilter
from vision_infer.service.results.subscription import HubClosedError, Message

_log = logging.getLogger("vision_infer.service")

RETRY_S = 0.1
"""The time after which a reader looks for a worker again that it lost, seconds."""
Kind = Literal["result", "state", "engine", "degraded", "moved"]
_KINDS = get_args(Kind)


class MergedSubscription:
    """The results of all workers for one client, with the interface of :class:`Subscription`.

    A row waits here only until the client takes it; further ones wait at the workers, which drop old ones.
    """

    def __init__(self, wanted: ResultFilter, states: bool, hub: MergedHub) -> None:
        self.wanted = wanted
        self.states = states
        self._hub = hub
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, workers: Mapping[str, Callable[[], FleetClient | None]]) -> None:
        """Start to read from the workers; their functions return None while they cannot be reached."""
        if self.wanted.streams is not None and not self.wanted.streams:
            return  # a client that sees no stream
        target = f"/api/v1/results?{urlencode(_query(self.wanted, self.states))}"
        for name, client in workers.items():
            self._run(self._read(name, client, target))

    async def next(self, timeout_s: float) -> Message | None:
        """Return the next message, or None after a timeout.

        Raises:
            HubClosedError: The service is stopping.
        """
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._messages.get()
        except TimeoutError:
            return None
        if message is None:
            raise HubClosedError("the service is stopping")
        return message

    def put(self, message: Message | None) -> None:
        """Add a message of this process; None: the service is stopping."""
        self._run(self._messages.put(message))

    def __enter__(self) -> MergedSubscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hub.leave(self)
        for task in self._tasks:
            task.cancel()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, worker: str, client: Callable[[], FleetClient | None], target: str) -> None:
        logged: set[str] = set()
        while True:
            reachable = client()
            if reachable is not None:
                try:
                    await self._read_once(reachable, target)
                except httpx.HTTPError:
                    pass  # the worker has ended; it starts again
                except Exception as error:  # noqa: BLE001 - the boundary of a task: the next process has results again
                    if str(error) not in logged:
                        logged.add(str(error))
                        _log.error("the results of worker %s cannot be read, trying again: %r", worker, error)
            await asyncio.sleep(RETRY_S)

    async def _read_once(self, client: FleetClient, target: str) -> None:
        streams = self.wanted.streams  # not in the URL, whose length is limited
        sees = {} if streams is None else {"cameras": sorted(streams)}
        response = await client.send(WorkerRequest("GET", target, client=sees))
        try:
            if response.status_code == httpx.codes.OK:
                async for message in messages_of(response.aiter_bytes()):
                    if self._hub.accepts(message.text):
                        await self._messages.put(message)
        finally:
            await response.aclose()


class MergedHub:
    """Creates the subscriptions of clients.

    Args:
        max_readers: The maximum number of clients.
        workers: Functions that return the client of each worker, or None while the worker cannot be reached.
        clock: The source of time.
        accepts: Returns whether clients get a row; called on the event loop.
    """

    def __init__(
        self,
        max_readers: int,
        workers: Mapping[str, Callable[[], FleetClient | None]],
        clock: Clock,
        accepts: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.accepts = accepts
        self._max_readers = max_readers
        self._workers = dict(workers)
        self._clock = clock
        # Guards the attributes below: the event loop changes them, supervising threads and the main thread read them.
        self._lock = threading.Lock()
        self._readers: tuple[MergedSubscription, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._changes = 0

    @property
    def readers(self) -> int:
        """The number of connected clients."""
        return len(self._readers)

    def subscribe(self, wanted: ResultFilter | None = None, states: bool = False) -> MergedSubscription:
        """Subscribe to results, on the event loop; see :meth:`ResultHub.subscribe`.

        Raises:
            TooManyReadersError: The maximum number of clients is reached.
            HubClosedError: The service is stopping.
        """
        reader = MergedSubscription(wanted or ResultFilter(), states, self)
        with self._lock:
            if self._closed:
                raise HubClosedError("the service is stopping")
            if len(self._readers) >= self._max_readers:
                hint = "Close one of them, or raise service.max_clients."
                raise TooManyReadersError(f"{len(self._readers)} clients already read results", hint)
            self._loop = asyncio.get_running_loop()
            self._readers = (*self._readers, reader)
        reader.begin(self._workers)
        return reader

    def add_worker(self, name: str, client: Callable[[], FleetClient | None]) -> None:
        """Read from another worker, which has started after the hub; any thread may call it."""
        with self._lock:
            self._workers[name] = client
        for reader in self._readers:
            self._soon(reader.begin, {name: client})

    def leave(self, reader: MergedSubscription) -> None:
        """Remove a client."""
        with self._lock:
            self._readers = tuple(one for one in self._readers if one is not reader)

    def publish(self, event: StreamEvent | MovedEvent) -> None:
        """Send a change to all clients that read changes of this stream; any thread may call it."""
        row = to_row(event, wall_ns_of(event, self._clock))
        with self._lock:
            self._changes += 1
            message = Message(kind_of(event), self._changes, row)
        for reader in self._readers:
            if reader.states and (reader.wanted.streams is None or event.stream in reader.wanted.streams):
                self._soon(reader.put, message)

    def close(self, complete: bool) -> None:
        """Announce the end to all clients."""
        del complete
        with self._lock:
            self._closed = True
        for reader in self._readers:
            self._soon(reader.put, None)

    def _soon(self, call: Callable[[Any], None], argument: object) -> None:
        assert self._loop is not None  # set with the first reader
        with suppress(RuntimeError):  # the loop is closed: no client is left
            self._loop.call_soon_threadsafe(call, argument)


def _query(wanted: ResultFilter, states: bool) -> dict[str, str]:
    query = {"min_score": str(wanted.min_score), "only_with_detections": str(wanted.only_with_detections).lower()}
    if wanted.classes is not None:
        query["classes"] = ",".join(sorted(wanted.classes))
    if wanted.mask_height is not None:
        query["mask_height"] = str(wanted.mask_height)
    return query | {"states": str(states).lower()}


async def messages_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    """Return the messages of a worker's server-sent events."""
    rest = b""
    async for chunk in chunks:
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.decode().splitlines() if ": " in line)
            kind = fields.get("event", "result")
            if "data" in fields and kind in _KINDS:
                yield Message(cast(Kind, kind), int(fields.get("id", 0)), fields["data"])
